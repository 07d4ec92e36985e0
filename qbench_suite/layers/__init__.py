"""The contracts of quantized layers and function calls; those themselves are plugins."""

from qbench_suite.layers.contract import QuantModule, replaces, resolve
from qbench_suite.layers.function import QuantFunction, resolve_function
from qbench_suite.layers.linear_map import LinearMap
from qbench_suite.layers.quantizing import Quantized, Quantizing, Role, RoleQuantizers

__all__ = [
    "LinearMap",
    "QuantFunction",
    "QuantModule",
    "Quantized",
    "Quantizing",
    "Role",
    "RoleQuantizers",
    "replaces",
    "resolve",
    "resolve_function",
]
