"""Calibration: static scales of activations, from the values that layers read on a few images."""

from qbench_suite.calibration.run import calibrate

__all__ = ["calibrate"]
