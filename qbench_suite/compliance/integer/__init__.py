"""Integer compliance: no float operation runs in a module, as four independent looks at it show."""

from qbench_suite.compliance.integer.audit import FloatUse, IntegerAudit
from qbench_suite.compliance.integer.disassembly import audit_disassembly
from qbench_suite.compliance.integer.dispatch import audit_dispatch
from qbench_suite.compliance.integer.graph import audit_compiled, audit_exported
from qbench_suite.compliance.integer.state import audit_state
from qbench_suite.compliance.integer.verdict import IntegerVerdict, audit_integer

__all__ = [
    "FloatUse",
    "IntegerAudit",
    "IntegerVerdict",
    "audit_compiled",
    "audit_disassembly",
    "audit_dispatch",
    "audit_exported",
    "audit_integer",
    "audit_state",
]
