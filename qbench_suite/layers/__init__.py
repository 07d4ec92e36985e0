"""The contract of quantized layers; the layers themselves are plugins."""

from qbench_suite.layers.contract import (
    Quantized,
    QuantModule,
    Role,
    RoleQuantizers,
    replaces,
    resolve,
)

__all__ = ["QuantModule", "Quantized", "Role", "RoleQuantizers", "replaces", "resolve"]
