"""Registry: unique names, sorted, with an owner each and near misses in the error."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from qbench_suite.errors import DuplicateNameError, NameNotFoundError


class Named(Protocol):
    """Anything a registry can hold: it has a name."""

    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)


@dataclass(frozen=True)
class Owner:
    """Who provided an entry: a distribution and its version, and the module it came from."""

    module: str
    distribution: str = "local"
    version: str = ""

    def __str__(self) -> str:
        return f"{self.module} ({self.distribution} {self.version})".replace(" )", ")")


@dataclass(frozen=True)
class Family(Generic[T]):
    """Entries whose names follow a pattern, made when first asked for.

    ``Family("chunk<N>", r"chunk(?P<size>[0-9]+)", make)`` answers to ``chunk48`` with
    ``make(match)``, where ``match`` is the full match of the name.
    """

    #: How the family is written for people, for instance ``chunk<N>``.
    name: str
    #: Regular expression that a member's whole name matches.
    pattern: str
    #: Makes the member from the match of its name.
    make: Callable[[re.Match[str]], T]
    #: Who provides the member; None for the plugin that provides the family.
    owner: Callable[[re.Match[str]], Owner] | None = None


class Registry(Generic[T]):
    """Entries of one kind by unique name; names come out sorted, whatever the order of plugins."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}
        self._families: dict[str, Family[T]] = {}
        self._owners: dict[str, Owner] = {}

    def check_free(self, entry: T | Family[T], owner: Owner) -> None:
        """Raise ``DuplicateNameError``, naming both owners, if the name of ``entry`` is taken.

        It is where it is registered, and where it is that of a member of another plugin's family.
        """
        for name in self._clashes(entry):
            if name == entry.name or self._owners[name] != owner:
                raise DuplicateNameError(
                    f"A {self.kind} name belongs to one plugin; {entry.name!r} is registered by "
                    f"{self._owners[name]} (as {name}) and by {owner}. Rename one, or disable one "
                    f"plugin with --qbench-disable-plugin {owner.module}."
                )

    def register(self, entry: T | Family[T], owner: Owner) -> None:
        """Add ``entry``; raises ``DuplicateNameError`` if its name is taken."""
        self.check_free(entry, owner)
        self._owners[entry.name] = owner
        if isinstance(entry, Family):
            self._families[entry.name] = entry
        else:
            self._entries[entry.name] = entry

    def get(self, name: str) -> T:
        """The entry called ``name``; raises ``NameNotFoundError`` with the nearest names."""
        if name in self._entries:
            return self._entries[name]
        family, match = self._membership(name)
        return family.make(match)

    def owner(self, name: str) -> Owner:
        """Who provided ``name``; for a member of a family, who provided that or its base."""
        if name in self._owners:
            return self._owners[name]
        family, match = self._membership(name)
        return family.owner(match) if family.owner else self._owners[family.name]

    def names(self) -> list[str]:
        """Names of the entries proper, sorted; families are listed by ``families``."""
        return sorted(self._entries)

    def families(self) -> list[str]:
        """Names of the families, sorted, for instance ``['block<N>x<M>', 'chunk<N>']``."""
        return sorted(self._families)

    def select(self, patterns: str) -> list[str]:
        """Names that match a comma list of globs; raises ``NameNotFoundError`` for one without match.

        A pattern without wildcard may name a member of a family: ``"fp8*"``, ``"chunk48,tensor"``.
        """
        chosen: dict[str, None] = {}
        for pattern in filter(None, (part.strip() for part in patterns.split(","))):
            hits = fnmatch.filter(self.names(), pattern)
            if not hits:
                hits = [self.get(pattern).name]
            chosen.update(dict.fromkeys(hits))
        return list(chosen)

    def _membership(self, name: str) -> tuple[Family[T], re.Match[str]]:
        for key in self.families():
            match = re.fullmatch(self._families[key].pattern, name)
            if match:
                return self._families[key], match
        raise NameNotFoundError(
            f"A {self.kind} is called by a registered name; got {name!r}. "
            f"{near_misses(name, self.names() + self.families())}"
        )

    def _clashes(self, entry: T | Family[T]) -> list[str]:
        """Names registered that ``entry`` has too, or whose family it is in, or that are in its."""
        if isinstance(entry, Family):
            members = [name for name in self._entries if re.fullmatch(entry.pattern, name)]
            return [entry.name, *members] if entry.name in self._owners else members
        families = self._families.items()
        held = [name for name, family in families if re.fullmatch(family.pattern, entry.name)]
        return [entry.name, *held] if entry.name in self._owners else held

    def __iter__(self) -> Iterator[T]:
        return (self._entries[name] for name in self.names())

    def __contains__(self, name: str) -> bool:
        return name in self._entries or any(
            re.fullmatch(family.pattern, name) for family in self._families.values()
        )

    def __len__(self) -> int:
        return len(self._entries)


def near_misses(name: str, known: list[str]) -> str:
    """A remedy for an unknown name: the nearest known ones, or all of them."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return f"Did you mean {' or '.join(near)}?"
    return f"Known: {', '.join(sorted(known)) or 'none; is the plugin installed?'}."
