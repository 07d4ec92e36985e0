"""The verdict: all audits of a module, and what follows from them together."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from qbench_suite.compliance.integer.audit import IntegerAudit
from qbench_suite.compliance.integer.disassembly import audit_disassembly
from qbench_suite.compliance.integer.dispatch import NATIVE, audit_dispatch
from qbench_suite.compliance.integer.graph import audit_compiled, audit_exported
from qbench_suite.compliance.integer.state import audit_state
from qbench_suite.layers.integer import IntegerBlock

#: Audits of a module; libraries are audited besides.
AUDITS = ("dispatch", "exported", "compiled", "state")


@dataclass(frozen=True)
class IntegerVerdict:
    """What the audits of one module came to; its text is a report of all of them."""

    audits: tuple[IntegerAudit, ...]

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
        opaque = {name for audit in self.audits for name in audit.opaque}
        opaque -= {name for audit in self.audits for name in audit.entered}
        given_away = sorted(name for name in opaque if _is_given_away(name))
        native = sorted(opaque - set(given_away))
        if given_away:
            reasons.append(f"elements leave torch by {', '.join(given_away)}")
        if native and not any(audit.name == "disassembly" for audit in self.audits):
            reasons.append(
                f"native code is reached by {', '.join(native)}, and no library was given"
            )
        return tuple(reasons)

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
    integer blocks within say of themselves. Audits that ``audits`` leaves out are not made, and not
    missed. Raises ``ConversionError`` where the module does not run on ``inputs``.
    """
    blocks = {n: part for n, part in module.named_modules() if isinstance(part, IntegerBlock)}
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
    if "disassembly" in audits:
        found += [audit_disassembly(file) for file in files]
    return IntegerVerdict(tuple(found))


def _is_given_away(name: str) -> bool:
    return name.startswith("Tensor.") and name.removeprefix("Tensor.") not in NATIVE
