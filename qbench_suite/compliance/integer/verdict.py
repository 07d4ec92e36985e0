"""The verdict: all audits of a module, and what follows from them together."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from qbench_suite.compliance.integer.audit import IntegerAudit
from qbench_suite.compliance.integer.disassembly import audit_disassembly
from qbench_suite.compliance.integer.dispatch import audit_dispatch
from qbench_suite.compliance.integer.graph import audit_compiled, audit_exported
from qbench_suite.compliance.integer.leaving import is_native
from qbench_suite.compliance.integer.state import audit_state
from qbench_suite.errors import NameNotFoundError
from qbench_suite.layers.integer import IntegerBlock
from qbench_suite.registry import near_misses

#: Audits of a module; libraries are audited besides.
AUDITS = ("dispatch", "exported", "compiled", "state")
#: Functions of other libraries that a reason names.
_NAMED = 5


@dataclass(frozen=True)
class IntegerVerdict:
    """What the audits of one module came to; its text is a report of all of them."""

    audits: tuple[IntegerAudit, ...]
    #: Modules, by dotted name, whose native code is in libraries that were looked at; empty for all.
    vouched: tuple[str, ...] = ()

    @property
    def integer_only(self) -> bool | None:
        """False where an audit found a float; None where none did but something was not seen."""
        if any(audit.findings for audit in self.audits):
            return False
        return None if self.unseen else True

    @property
    def unseen(self) -> tuple[str, ...]:
        """What no audit could look at, in words."""
        reasons = [audit.summary for audit in self.audits if audit.not_run]
        entered = {name for audit in self.audits for name in audit.entered}
        away, native = set(), set()
        for audit in self.audits:
            opaque = [name for name in audit.opaque if name not in entered]
            if audit.file and opaque:
                more = f" and {len(opaque) - _NAMED} more" if len(opaque) > _NAMED else ""
                named = ", ".join(opaque[:_NAMED])
                reasons.append(f"{audit.file} uses {named}{more} of libraries that were not given")
            elif not audit.file:
                away |= {name for name in opaque if not is_native(name)}
                native |= {said for name in opaque for said in self._unvouched(name, audit)}
        if away:
            reasons.append(f"elements leave torch by {', '.join(sorted(away))}")
        if native:
            native_ = ", ".join(sorted(native))
            reasons.append(f"native code is reached by {native_}, and no library was given")
        return tuple(reasons) if self.audits else ("no audit was made",)

    def _unvouched(self, name: str, audit: IntegerAudit) -> Iterator[str]:
        """``name in module`` for each module where native code is reached that nobody vouched for."""
        for place in audit.places.get(name, {""}) if is_native(name) else ():
            if not any(f"{place}.".startswith(f"{v}." if v else "") for v in self.vouched):
                yield f"{name} in {place}" if place else name

    @property
    def floats(self) -> int:
        """Uses of floats that were found, by all audits together."""
        return sum(audit.floats for audit in self.audits)

    def __str__(self) -> str:
        said = {
            True: "integer only",
            False: f"not integer only: {self.floats} uses of floats were found",
            None: "no float was found, but not everything was seen: " + "; ".join(self.unseen),
        }
        return "\n".join([said[self.integer_only], *map(str, self.audits)])


def audit_integer(
    module: nn.Module,
    *inputs: Any,
    libraries: Sequence[str | os.PathLike[str]] = (),
    declared: Iterable[str] = (),
    audits: Sequence[str] = (*AUDITS, "disassembly"),
) -> IntegerVerdict:
    """Make all audits of ``module`` on ``inputs``, and of the ``libraries`` that it computes in.

    ``declared``: patterns of float entries that the state dict may hold. To both is added what
    integer blocks within say of themselves; the library of a block proves nothing of native code that
    is reached outside of it, one of ``libraries`` does. Audits that ``audits`` leaves out are not made,
    and not missed. Raises ``ConversionError`` where the module does not run on ``inputs``, and
    ``NameNotFoundError`` for the name of no audit.
    """
    _check(audits)
    # Under every name: a block may stand in two places.
    parts = module.named_modules(remove_duplicate=False)
    blocks = {name: part for name, part in parts if isinstance(part, IntegerBlock)}
    files = dict.fromkeys(os.fspath(f) for f in libraries)
    files |= dict.fromkeys(os.fspath(f) for b in blocks.values() for f in b.native_libraries())
    own = (f"{n}.{p}".lstrip(".") for n, block in blocks.items() for p in block.float_state)
    patterns = [*declared, *own]
    made = {
        "dispatch": lambda: audit_dispatch(module, *inputs),
        "exported": lambda: audit_exported(module, *inputs),
        "compiled": lambda: audit_compiled(module, *inputs),
        "state": lambda: audit_state(module, patterns),
    }
    found = [made[name]() for name in AUDITS if name in audits]
    vouched: tuple[str, ...] = ()
    if "disassembly" in audits:
        found += [audit_disassembly(file) for file in files]
        vouched = (
            ("",) if libraries else tuple(n for n, b in blocks.items() if b.native_libraries())
        )
    return IntegerVerdict(tuple(found), vouched)


def _check(audits: Sequence[str]) -> None:
    known = [*AUDITS, "disassembly"]
    for name in audits:
        if name not in known:
            raise NameNotFoundError(
                f"audits are names of audits; {name!r} is none. {near_misses(name, known)}"
            )
