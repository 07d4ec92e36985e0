"""The engine: loads models once, captures references, runs cases; knows nothing of pytest."""

from qbench_suite.engine.arithmetic_grid import IntegerCase, LinearCase
from qbench_suite.engine.engine import Engine
from qbench_suite.engine.grid import FormatCase, LayerCase, ModelCase, QuantizerCase, Selection
from qbench_suite.engine.norm_grid import NormCase
from qbench_suite.engine.settings import Settings

__all__ = [
    "Engine",
    "FormatCase",
    "IntegerCase",
    "LayerCase",
    "LinearCase",
    "ModelCase",
    "NormCase",
    "QuantizerCase",
    "Selection",
    "Settings",
]
