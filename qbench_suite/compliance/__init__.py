"""Compliance: every value that claims to be quantized is exactly q · scale for a q of the format."""

from qbench_suite.compliance.grid import Compliance, Violation, check_grid
from qbench_suite.compliance.model import Failure, ModelCompliance, SiteVerdict, TensorVerdict
from qbench_suite.compliance.rules import ComplianceRules, IntegerRules, read_rules

__all__ = [
    "Compliance",
    "ComplianceRules",
    "Failure",
    "IntegerRules",
    "ModelCompliance",
    "SiteVerdict",
    "TensorVerdict",
    "Violation",
    "check_grid",
    "read_rules",
]
