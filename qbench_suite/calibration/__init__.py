"""Calibration: what follows from the values that layers read on a few images.

Static scales of activations (``calibrate``), and weights rounded by more than their own value: rules,
and the passes over float and quantized model that feed them.
"""

from qbench_suite.calibration.layer_rounding import RoundedWeight, apply, round_layer
from qbench_suite.calibration.lockstep import Images, Watched, collect
from qbench_suite.calibration.rounding import Nearest, RoundingProblem, RoundingRule
from qbench_suite.calibration.run import calibrate

__all__ = [
    "Images",
    "Nearest",
    "RoundedWeight",
    "RoundingProblem",
    "RoundingRule",
    "Watched",
    "apply",
    "calibrate",
    "collect",
    "round_layer",
]
