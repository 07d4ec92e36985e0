"""Kernels in CUDA C++ and Metal: compiled on first use and launched, or run in an emulator."""

from __future__ import annotations

from qbench_suite.gpu.architectures import (
    SM_75,
    SM_80,
    SM_89,
    SM_90,
    SM_100,
    SM_120,
    Architecture,
    architecture_of,
    emulating,
)
from qbench_suite.gpu.guarded import guarded
from qbench_suite.gpu.inspection import Resources, inspect_function, inspection_unavailable
from qbench_suite.gpu.launch import LaunchPlan
from qbench_suite.gpu.metal import MetalFunction, MetalSource
from qbench_suite.gpu.source import CudaFunction, CudaSource

__all__ = [
    "SM_75",
    "SM_80",
    "SM_89",
    "SM_90",
    "SM_100",
    "SM_120",
    "Architecture",
    "CudaFunction",
    "CudaSource",
    "LaunchPlan",
    "MetalFunction",
    "MetalSource",
    "Resources",
    "architecture_of",
    "emulating",
    "guarded",
    "inspect_function",
    "inspection_unavailable",
]
