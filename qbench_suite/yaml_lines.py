"""YAML with line numbers: plain data, and the line on which each key and value of it was written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from qbench_suite.errors import PolicyError

#: Where something stands in nested data: keys of mappings, indices of lists.
Key = tuple[str | int, ...]
#: Values that a file may hold once its aliases are followed, which may multiply without bound.
_MAX_VALUES = 10_000
_MERGE = "tag:yaml.org,2002:merge"
#: Text in quotes, and comments.
_QUOTED = re.compile(r"\"(?:\\.|[^\"])*\"|'[^']*'|(?:^|\s)#.*")


@dataclass(frozen=True)
class Subject:
    """What a YAML file holds, as errors put it."""

    #: With its article, for instance ``a policy``.
    name: str
    #: A line of a good one.
    example: str
    #: Where to find a good one.
    remedy: str


POLICY = Subject(
    "a policy",
    "`format: fp8_e4m3`",
    "name one, or a policy of `qbench list policies`",
)


@dataclass(frozen=True)
class Document:
    """A YAML mapping read from a file; lines count from 1."""

    path: Path
    data: dict[str, Any]
    #: Line of each key of a mapping, and of each item of a list.
    keys: Mapping[Key, int] = field(repr=False)
    #: Line on which each value begins.
    values: Mapping[Key, int] = field(repr=False)
    #: Text of each value that is one word or number, as written.
    words: Mapping[Key, str] = field(repr=False, default_factory=dict)

    def line(self, key: Key, *, of_value: bool = False) -> int:
        """The line of ``key``; of the innermost thing around it that was written, where it was not."""
        lines = self.values if of_value else self.keys
        while key and key not in lines:
            key = key[:-1]
        return lines.get(key, 1)

    def error(
        self, key: Key, invariant: str, received: str, remedy: str, *, of_value: bool = False
    ) -> PolicyError:
        """The mistake at ``key``, as ``<file>, line <n>: <invariant>; got <received>; <remedy>``."""
        line = self.line(key, of_value=of_value)
        return PolicyError(sentence(f"{self.path}, line {line}", invariant, received, remedy))


def sentence(where: str, invariant: str, received: str, remedy: str) -> str:
    """``<where>: <invariant>; got <received>; <remedy>.``, a remedy that asks keeps its question mark."""
    remedy = remedy[:1].lower() + remedy[1:].rstrip(".")
    return f"{where}: {invariant}; got {received}; {remedy}" + "." * (not remedy.endswith("?"))


def read_yaml(path: Path, subject: Subject = POLICY) -> Document:
    """The mapping in a YAML file; keys are text as written, so that ``0:`` is ``"0"``.

    Raises ``PolicyError``, with the line, for a file that cannot be read, that is no YAML or no
    mapping, for a key that stands twice in one mapping, and for an alias within what it names.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise PolicyError(
            f"{path}: {subject.name} is a YAML file in UTF-8 that can be read; got {reason}; "
            f"{subject.remedy}."
        ) from None
    return parse_yaml(text, path, subject)


def parse_yaml(text: str, path: Path, subject: Subject = POLICY) -> Document:
    """``read_yaml`` of a file's text; ``path`` is what errors call it."""
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            raise _no_mapping(path, 1, subject, "an empty file")
        reader = _Reader(path, loader)
        data = reader.value(root, (), ())
    except (yaml.YAMLError, RecursionError) as error:
        raise _syntax_error(path, subject, text, error) from None
    if not isinstance(data, dict):
        raise _no_mapping(path, root.start_mark.line + 1, subject, _kind(root))
    return Document(path, data, reader.keys, reader.values, reader.words)


class _Reader:
    """Turns nodes into data and notes their lines."""

    def __init__(self, path: Path, loader: yaml.SafeLoader) -> None:
        self.path, self.loader = path, loader
        self.keys: dict[Key, int] = {}
        self.values: dict[Key, int] = {}
        self.words: dict[Key, str] = {}

    def value(self, node: yaml.Node, key: Key, around: tuple[yaml.Node, ...]) -> Any:
        """The data of ``node``, which stands at ``key`` within the nodes ``around``."""
        line = node.start_mark.line + 1
        self.values[key] = line
        if node in around:
            invariant = "an alias does not name what it stands in"
            raise _error(self.path, line, invariant, "one that does")
        if len(self.values) > _MAX_VALUES:
            invariant = f"a file holds at most {_MAX_VALUES:,} values, repeats by alias included"
            raise _error(self.path, line, invariant, "more", "shorten it")
        around = (*around, node)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, key, around)
        if isinstance(node, yaml.SequenceNode):
            return [self._item(item, (*key, i), around) for i, item in enumerate(node.value)]
        self.words[key] = str(node.value)
        try:
            return self.loader.construct_object(node)
        except ValueError as error:  # for instance 2024-99-99, which looks like a date
            received = f"{node.value!r} ({error})"
            raise _error(self.path, line, "a value can be read", received) from None

    def _item(self, node: yaml.Node, key: Key, around: tuple[yaml.Node, ...]) -> Any:
        self.keys[key] = node.start_mark.line + 1
        return self.value(node, key, around)

    def _mapping(
        self, node: yaml.MappingNode, key: Key, around: tuple[yaml.Node, ...]
    ) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for name_node, value_node in node.value:
            line = name_node.start_mark.line + 1
            if not isinstance(name_node, yaml.ScalarNode):
                raise _error(self.path, line, "a key is a word", _kind(name_node))
            name = str(name_node.value)
            if name_node.tag == _MERGE:
                remedy = "repeat the keys, or write an alias in place of a whole value, as `b: *a`"
                invariant = "a mapping has keys of its own; aliases are taken, merge keys are not"
                raise _error(self.path, line, invariant, "the merge key <<", remedy)
            if name in data:
                first = self.keys[(*key, name)]
                received = f"{name!r} again, first on line {first}"
                raise _error(self.path, line, "a key stands once in a mapping", received)
            self.keys[(*key, name)] = line
            data[name] = self.value(value_node, (*key, name), around)
        return data


def _kind(node: yaml.Node) -> str:
    """What a node is, in words."""
    if isinstance(node, yaml.ScalarNode):
        return f"the single value {node.value!r}"
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"


def _error(
    path: Path, line: int, invariant: str, received: str, remedy: str = "remove it"
) -> PolicyError:
    return PolicyError(sentence(f"{path}, line {line}", invariant, received, remedy))


def _no_mapping(path: Path, line: int, subject: Subject, received: str) -> PolicyError:
    invariant = f"{subject.name} is a mapping of keys to values"
    remedy = f"write for instance {subject.example}"
    return PolicyError(sentence(f"{path}, line {line}", invariant, received, remedy))


def _syntax_error(path: Path, subject: Subject, text: str, error: Exception) -> PolicyError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = mark.line if mark else text.count("\n", 0, getattr(error, "position", 0))
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "too deep a nest"
    where = f"{path}, line {line + 1}"
    remedy = "mend the line: `key: value`, indented by spaces, patterns with * in quotes"
    bare = _QUOTED.sub("''", "".join(text.split("\n")[line : line + 1]))
    if re.search(r"(^|[\s\[{,:])\*", bare):
        remedy = "an unquoted * begins an alias: write patterns with * in quotes"
    return PolicyError(sentence(where, f"{subject.name} is YAML", str(problem), remedy))
