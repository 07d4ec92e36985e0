"""Vision transformers of timm whose blocks run in integers alone."""

from __future__ import annotations

from collections.abc import Callable

from qbench_fqvit.act import QAct
from qbench_fqvit.block import QuantTimmVitBlock
from qbench_fqvit.calibration import calibration
from qbench_fqvit.convert import convert, get_quantized_layers, restore
from qbench_fqvit.linear import QuantLinear
from qbench_fqvit.methods import METHODS, method
from qbench_fqvit.norm import QLayerNorm
from qbench_fqvit.residual import QResidual
from qbench_fqvit.rounding import round_weights
from qbench_fqvit.scheme import Scheme
from qbench_fqvit.softmax import QuantIntSoft
from qbench_suite import IntegerMethod, hookimpl

__all__ = [
    "METHODS",
    "QAct",
    "QLayerNorm",
    "QResidual",
    "QuantIntSoft",
    "QuantLinear",
    "QuantTimmVitBlock",
    "Scheme",
    "calibration",
    "convert",
    "get_quantized_layers",
    "method",
    "qbench_register_integer_methods",
    "restore",
    "round_weights",
]


@hookimpl
def qbench_register_integer_methods(register: Callable[[IntegerMethod], None]) -> None:
    """Register every scheme of ``methods``."""
    for entry in METHODS:
        register(entry)
