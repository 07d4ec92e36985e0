"""Number formats: what values one element may take, and how it is rounded to them."""

from qbench_suite.formats.base import Format, Overflow, Rounding, RoundKernel
from qbench_suite.formats.codebook import CodebookFormat
from qbench_suite.formats.floating import FloatFormat, Specials
from qbench_suite.formats.identity import IdentityFormat
from qbench_suite.formats.integer import IntFormat

__all__ = [
    "CodebookFormat",
    "FloatFormat",
    "Format",
    "IdentityFormat",
    "IntFormat",
    "Overflow",
    "RoundKernel",
    "Rounding",
    "Specials",
]
