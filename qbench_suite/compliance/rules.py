"""Rules: what compliance looks at in a whole model, read from YAML."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError
from pydantic_core import ErrorDetails

from qbench_suite.errors import PolicyError
from qbench_suite.layers import Role
from qbench_suite.registry import near_misses
from qbench_suite.yaml_lines import Document, Key, Subject, read_yaml, sentence

_SUBJECT = Subject(
    "a set of compliance rules",
    "`tolerance: exact`",
    "name one, or leave the option out for the suite's own rules",
)
_DOCUMENTED = "docs/how-to/compliance.md says what each key takes"

#: The greatest tolerance: beyond it neighbours on a fine grid are told apart no more.
MOST_ULPS = 16

Patterns = tuple[Annotated[str, Field(min_length=1)], ...]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class LayerSelection(_Section):
    """Which layers, by globs of their names."""

    #: A layer is checked where one of these matches its name …
    include: Annotated[Patterns, Field(strict=False)] = ("*",)
    #: … and none of these does.
    exclude: Annotated[Patterns, Field(strict=False)] = ()

    def holds(self, name: str) -> bool:
        """Whether the layer of that name is checked."""
        included = any(fnmatch.fnmatchcase(name, pattern) for pattern in self.include)
        return included and not any(fnmatch.fnmatchcase(name, p) for p in self.exclude)


class FailureLimits(_Section):
    """How many values off the grid are kept as examples; all are counted."""

    per_tensor: Annotated[int, Field(ge=0)] = 3
    total: Annotated[int, Field(ge=0)] = 100


class Limits(_Section):
    """How much is looked at; weights and statistics always are."""

    #: Activations of the first images are checked; null for those of all.
    images: Annotated[int | None, Field(ge=0)] = 16
    #: Elements of each tensor, drawn by the seed; null for all.
    elements_per_tensor: Annotated[int | None, Field(gt=0)] = None
    #: Seed of that draw.
    seed: Annotated[int, Field(ge=0)] = 0
    failures: FailureLimits = FailureLimits()


class IntegerRules(_Section):
    """How it is shown that no float operation runs in integer blocks."""

    #: The audits that are made.
    audits: Annotated[
        tuple[Literal["dispatch", "exported", "compiled", "state", "disassembly"], ...],
        Field(strict=False, min_length=1),
    ] = ("dispatch", "exported", "compiled", "state", "disassembly")
    #: Globs of float entries that the state dict of a block may hold, beside those it declares.
    float_state: Annotated[Patterns, Field(strict=False)] = ()


class ComplianceRules(_Section):
    """Which quantized tensors of a model are checked, how exactly, and how many of them."""

    roles: Annotated[
        tuple[Annotated[Role, Field(strict=False)], ...], Field(strict=False, min_length=1)
    ] = tuple(Role)
    layers: LayerSelection = LayerSelection()
    #: ``exact``, or the units in its last place by which a value may miss the grid.
    tolerance: Literal["exact"] | Annotated[int, Field(ge=1, le=MOST_ULPS)] = "exact"
    limits: Limits = Limits()
    integer: IntegerRules = IntegerRules()

    _document: Document | None = PrivateAttr(default=None)

    @property
    def ulps(self) -> int:
        """The tolerance as a number: 0 for ``exact``."""
        return 0 if self.tolerance == "exact" else self.tolerance

    def select(self, names: Iterable[str]) -> frozenset[str]:
        """The layers to check; raises ``PolicyError`` where there are layers, and none is chosen."""
        known = list(names)
        chosen = frozenset(name for name in known if self.layers.holds(name))
        if known and not chosen:
            key: Key = ("layers", "include")
            words = (
                "layers to check are among those of the model",
                f"include {list(self.layers.include)}, exclude {list(self.layers.exclude)}",
                near_misses(self.layers.include[0] if self.layers.include else "", known[:8]),
            )
            if self._document is None:
                raise PolicyError(sentence("compliance rules", *words))
            raise self._document.error(key, *words, of_value=True)
        return chosen


def read_rules(path: Path | None = None) -> ComplianceRules:
    """The rules in a YAML file; the suite's own, everything exact, without one.

    Raises ``PolicyError``, with file and line, for what is no YAML, for keys there are not and for
    values they do not take; several mistakes are listed together.
    """
    if path is None:
        return ComplianceRules()
    document = read_yaml(path, _SUBJECT)
    try:
        rules = ComplianceRules.model_validate(document.data)
    except ValidationError as error:
        found = [_mistake(document, details) for details in error.errors(include_url=False)]
        lines = dict.fromkeys(str(mistake) for _, mistake in sorted(found, key=lambda m: m[0]))
        raise PolicyError("\n".join(lines)) from None
    rules._document = document
    return rules


def _mistake(document: Document, details: ErrorDetails) -> tuple[int, PolicyError]:
    # Past the key of a file, pydantic names the member of a union that did not fit.
    key = tuple(part for part in details["loc"] if part in _written(document.data))
    name = ".".join(map(str, key)) or "a set of compliance rules"
    if details["type"] == "extra_forbidden":
        known = _keys(key[:-1])
        words = (
            f"keys of {'.'.join(map(str, key[:-1])) or 'compliance rules'} are known ones",
            repr(key[-1]),
            near_misses(str(key[-1]), known),
        )
        return document.line(key), document.error(key, *words)
    if name == "tolerance":
        takes = f"tolerance is exact, or a number of ulps from 1 to {MOST_ULPS}"
        words = (takes, repr(details["input"]), _DOCUMENTED)
    else:
        message = str(details["msg"]).removeprefix("Input ").replace("tuple", "list")
        message = message.removeprefix("Tuple ").removesuffix(" after validation, not 0")
        words = (f"{name} {message}", repr(details["input"]), _DOCUMENTED)
    return document.line(key), document.error(key, *words, of_value=True)


def _written(data: Any) -> set[str | int]:
    """Every key and index below ``data``."""
    pairs: Iterable[tuple[str | int, Any]] = ()
    if isinstance(data, dict):
        pairs = data.items()
    elif isinstance(data, list):
        pairs = enumerate(data)
    return {part for key, value in pairs for part in (key, *_written(value))}


def _keys(section: Key) -> list[str]:
    """The keys that a section has."""
    model: Any = ComplianceRules()
    for part in section:
        model = getattr(model, str(part))
    return sorted(type(model).model_fields)
