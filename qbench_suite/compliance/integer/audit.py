"""IntegerAudit: what one look at a module found of floats, and what it could not see."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

#: Of each kind, what a report names; all are counted.
_NAMED = 10


@dataclass(frozen=True)
class FloatUse:
    """A float where none should be."""

    #: The operation, tensor or instruction.
    what: str
    #: What about it is float.
    why: str
    #: The module it is in, by dotted name, or the symbol and address; empty for the module itself.
    where: str = ""
    #: How often it was met.
    count: int = 1

    def __str__(self) -> str:
        where = f" in {self.where}" if self.where else ""
        times = f", {self.count} times" if self.count > 1 else ""
        return f"{self.what}{where}: {self.why}{times}"


@dataclass(frozen=True)
class IntegerAudit:
    """The result of one audit."""

    #: ``dispatch``, ``exported``, ``compiled``, ``state`` or ``disassembly``.
    name: str
    #: What was looked at: ``operations``, ``tensors``, ``instructions``.
    unit: str
    #: How many of them.
    looked_at: int = 0
    #: Floats that should not be there.
    findings: tuple[FloatUse, ...] = ()
    #: What ran, or what the module gave away, without the audit seeing what is computed there.
    opaque: Mapping[str, int] = field(default_factory=dict)
    #: The modules, by dotted name, in which each of these was met; empty for the module itself.
    places: Mapping[str, frozenset[str]] = field(default_factory=dict)
    #: Of what may be opaque elsewhere, what it looked into: operators in Python, functions in a file.
    entered: frozenset[str] = frozenset()
    #: What is float and may be, or other remarks.
    notes: tuple[str, ...] = ()
    #: Why the audit could not be made; empty where it was.
    not_run: str = ""
    #: The file that was looked at, of an audit of a file.
    file: str = ""

    @property
    def floats(self) -> int:
        """Uses of floats that were found."""
        return sum(finding.count for finding in self.findings)

    @property
    def passed(self) -> bool:
        """Whether it was made and found nothing; what it could not see is in ``opaque``."""
        return not self.not_run and not self.findings

    @property
    def summary(self) -> str:
        """One line: ``dispatch: 0 floats in 21 operations``."""
        name = f"{self.name} of {self.file}" if self.file else self.name
        if self.not_run:
            return f"{name}: not run, {self.not_run}"
        return f"{name}: {self.floats} floats in {self.looked_at} {self.unit}"

    def __str__(self) -> str:
        opaque = [f"{name}, {count} times" for name, count in self.opaque.items()]
        lines = [self.summary, *_first("float ", self.findings), *_first("opaque", opaque)]
        return "\n".join([*lines, *(f"  note    {note}" for note in self.notes)])


def _first(kind: str, items: Sequence[object]) -> Iterator[str]:
    yield from (f"  {kind}  {item}" for item in items[:_NAMED])
    if len(items) > _NAMED:
        yield f"  {kind}  … and {len(items) - _NAMED} more"


def listed(what: str, names: Iterable[str]) -> tuple[str, ...]:
    """One note, ``what: name, name``; none without names."""
    text = ", ".join(names)
    return (f"{what}: {text}",) if text else ()
