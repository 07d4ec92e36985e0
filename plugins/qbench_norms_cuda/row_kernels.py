"""The kernels of forward norms of rows: their names in C++, their launches, their arguments."""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass
from pathlib import Path

import torch

from qbench_norms_cuda.row_plan import Holding, holding
from qbench_suite import Architecture, CudaFunction, CudaSource, LaunchPlan, architecture_of

_CSRC = Path(__file__).parent / "csrc"
#: (statistic, whether scale or shift are given): file and policy of the kernel.
_NORMS = {
    ("layer", False): (CudaSource(_CSRC / "layer_norm.cu"), "LayerNorm"),
    ("layer", True): (CudaSource(_CSRC / "adaptive_layer_norm.cu"), "AdaptiveLayerNorm"),
    ("rms", False): (CudaSource(_CSRC / "rms_norm.cu"), "RmsNorm"),
    ("rms", True): (CudaSource(_CSRC / "rms_norm.cu"), "RmsNorm"),
    ("l2", False): (CudaSource(_CSRC / "weight_norm.cu"), "WeightNorm"),
}
_TYPES = {torch.float32: "float", torch.float16: "__half", torch.bfloat16: "__nv_bfloat16"}
#: Policy of the codes of a format, and their dtype.
CODES = {"fp8_e4m3": ("Fp8E4M3", torch.float8_e4m3fn), "int8": ("Int8", torch.int8)}
_OUTPUTS = {
    "static": "qb::Static<qb::{}>",
    "token": "qb::PerRow<qb::{}>",
    "chunk128": "qb::PerChunk<qb::{}, 128, qb::AbsMaxRule>",
    "mx32": "qb::PerChunk<qb::{}, 32, qb::PowerOfTwoRule>",
}
#: Elements that share a scale, by mode; all of a row in others.
CHUNKS = {"chunk128": 128, "mx32": 32}


@dataclass(frozen=True)
class Quantization:
    """What ``y`` becomes instead: codes of ``format``, with scales of ``mode``.

    ``format``: ``fp8_e4m3`` or ``int8``. ``mode``: ``static`` (one scale, given), ``token`` (one a
    row), ``chunk128`` (one for 128 elements), ``mx32`` (a power of two for 32 elements).
    """

    format: str
    mode: str


class RowArguments(ctypes.Structure):
    """``RowForward`` of row_forward.cuh, its nested structs flat; pointers as numbers."""

    _fields_ = (
        *(
            (name, ctypes.c_longlong)
            for name in (
                *("x", "residual"),
                *("gate", "gate_batch_stride", "gate_token_stride"),
                *("weight", "weight_batch_stride", "weight_token_stride"),
                *("bias", "bias_batch_stride", "bias_token_stride"),
                *("y", "total", "scales", "given_scale", "offset", "rstd", "partials", "largest"),
                *("rows", "n", "x_stride", "residual_stride", "tokens"),
            )
        ),
        ("items", ctypes.c_int),
        ("eps", ctypes.c_float),
        ("weight_offset", ctypes.c_float),
    )


_pack = struct.Struct("24qiff4x").pack


def row_arguments(*values: float) -> RowArguments:
    """The fields of ``RowArguments`` in order, all at once: several times faster than one by one."""
    return RowArguments.from_buffer_copy(_pack(*values))


@dataclass(frozen=True)
class Kernel:
    """What makes two kernels differ, apart from how rows are held."""

    statistic: str
    #: Whether weight and bias are a condition's scale and shift.
    conditioned: bool
    dtype: torch.dtype
    weight_dtype: torch.dtype
    quantization: Quantization | None = None

    def function(self, held: Holding, width: int, stage: str = "WHOLE") -> CudaFunction:
        """The kernel of a launch; ``width``: elements that all operands are aligned to."""
        source, policy = _NORMS[self.statistic, self.conditioned]
        output = "qb::Plain"
        if self.quantization is not None:
            output = _OUTPUTS[self.quantization.mode]
            output = output.format(CODES[self.quantization.format][0])
        types = f"{_TYPES[self.dtype]}, {_TYPES[self.weight_dtype]}, {policy}, {output}"
        numbers = f"{held.lanes}, {held.items}, {width}, qb::{stage}"
        return source.function(f"qb::row_forward<{types}, {numbers}>")

    @property
    def chunk(self) -> int:
        """Elements that share a scale; 0 without, or all of a row."""
        return CHUNKS.get(self.quantization.mode, 0) if self.quantization else 0

    def stages(self, held: Holding) -> tuple[str, ...]:
        """The launches of one forward."""
        if held.slices == 1:
            return ("WHOLE",)
        by_row = self.quantization is not None and self.quantization.mode == "token"
        return ("DESCRIBE", "ENLARGE", "WRITE") if by_row else ("DESCRIBE", "WRITE")


@dataclass(frozen=True)
class RowLaunch:
    """The launches of a forward, one after another."""

    held: Holding
    plans: tuple[LaunchPlan, ...]
    #: Kept, so that its identity stays its own.
    architecture: Architecture


#: (statistic, conditioned, dtype, dtype of the weight, quantization), then what a launch depends on.
_prepared: dict[object, RowLaunch] = {}
_MOST_PREPARED = 4096


def row_launch(
    norm: tuple[str, bool, torch.dtype, torch.dtype, Quantization | None],
    n: int,
    rows: int,
    width: int,
    device: torch.device,
) -> RowLaunch:
    """How ``rows`` rows of ``n`` elements are normalized on ``device``; made once and kept.

    ``norm``: the fields of ``Kernel``; ``width``: elements that every operand is aligned to.
    """
    architecture = architecture_of(device)
    # Its identity, as hashing its fields costs as much as all the rest.
    key = (norm, n, rows, width, device, id(architecture))
    found = _prepared.get(key)
    if found is None:
        if len(_prepared) >= _MOST_PREPARED:
            _prepared.clear()
        found = _prepared[key] = _prepare(Kernel(*norm), n, rows, width, device, architecture)
    return found


def _prepare(
    kernel: Kernel, n: int, rows: int, width: int, device: torch.device, architecture: Architecture
) -> RowLaunch:
    held = holding(n, kernel.dtype.itemsize, architecture, kernel.chunk)
    stages = kernel.stages(held)
    blocks = -(-rows // held.rows_of_block) * held.cluster * held.slices
    plans = (
        kernel.function(held, width, stage).plan(
            grid=(blocks, 1, 1),
            block=(held.block, 1, 1),
            cluster=held.cluster,
            shared_bytes=held.shared_bytes,
            dependent=stage != stages[0],
            device=device,
        )
        for stage in stages
    )
    return RowLaunch(held, tuple(plans), architecture)
