"""Compliance: every value that claims to be quantized is exactly q · scale for a q of the format."""

from qbench_suite.compliance.grid import Compliance, Violation, check_grid

__all__ = ["Compliance", "Violation", "check_grid"]
