"""Quantized norms: codes and scales bit for bit those of the suite's own quantizer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from qbench_formats import FORMATS
from qbench_modes import MODES
from qbench_suite import NORM_OPERATIONS, NormOperation, NormProblem, PerTensor, Quantizer
from qbench_suite import Mode as ScalingMode
from qbench_suite.scaling import compiling
from qbench_suite.scaling.quantized import Scales

QUANTIZED = [op for op in NORM_OPERATIONS.values() if op.quantized is not None]
FORMAT = {format.name: format for format in FORMATS}
MODE = {mode.name: mode for mode in MODES} | {
    "static": ScalingMode(name="static", granularity=PerTensor())
}


@pytest.fixture(autouse=True)
def uncompiled() -> Iterator[None]:
    """Compiled kernels have the same bits, and take seconds to build."""
    with compiling.eager():
        yield


def rows(dtype: torch.dtype, width: int) -> Tensor:
    """Rows of many sizes: zeros, small and large ones, one with an element far above the others."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, width, generator=generator)
    x[1] = 0
    x[2] *= 1e-3
    x[3, width // 2] = 300
    return x.to(dtype)


def agree(operation: NormOperation, y: Tensor, codes: Tensor, scales: Tensor) -> None:
    """Whether codes and scales are those that the suite's quantizer gives ``y``."""
    assert operation.quantized is not None
    format, mode = operation.quantized
    quantizer = Quantizer(FORMAT[format], MODE[mode])
    assert codes.dtype == {"fp8_e4m3": torch.float8_e4m3fn, "int8": torch.int8}[format]
    assert (codes.shape, scales.dtype) == (y.shape, torch.float32)
    if mode == "static":
        static = Scales(scales.reshape(1, 1))
        grid = quantizer.fake_quantize(y.float(), scales=static)
        assert torch.equal(codes.float() * scales, grid.values)
        return
    found = quantizer.quantize(y)
    assert torch.equal(scales, found.scale)
    assert torch.equal(codes.float(), FORMAT[format].decode(found.codes))


def plain(operation: NormOperation) -> NormOperation:
    """The norm whose output is quantized."""
    assert operation.quantized is not None
    return NORM_OPERATIONS[operation.name.split(f"_{operation.quantized[0]}")[0]]


@pytest.mark.parametrize("width", [256, 200, 33, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("operation", QUANTIZED, ids=lambda op: op.name)
def test_codes_are_those_of_the_quantizer(
    operation: NormOperation, dtype: torch.dtype, width: int
) -> None:
    drawn = operation.inputs(NormProblem((7, width), dtype))
    inputs = {**drawn, "x": rows(dtype, width)}
    y = plain(operation).eager(inputs)()[0]
    agree(operation, y, *operation.eager(inputs)()[:2])


@pytest.mark.parametrize("operation", QUANTIZED, ids=lambda op: op.name)
def test_the_reference_quantizes_the_rounded_output(operation: NormOperation) -> None:
    """y is rounded to its dtype first: what a fused kernel gives is what the unfused chain gives."""
    inputs = operation.inputs(NormProblem((7, 200), torch.bfloat16))
    y, *rest = plain(operation).exact(inputs)
    outputs = operation.exact(inputs)
    agree(operation, y.to(torch.bfloat16), outputs[0], outputs[1].float())
    assert len(outputs) == len(operation.outputs)
    assert all(torch.equal(a, b) for a, b in zip(outputs[2:], rest, strict=True))


@pytest.mark.parametrize("operation", QUANTIZED, ids=lambda op: op.name)
def test_what_is_not_finite_stays_in_its_row(operation: NormOperation) -> None:
    """A NaN or ±Inf makes NaN of a row that is normalized: its scale is 1, the other rows as they were."""
    drawn = operation.inputs(NormProblem((7, 64), torch.float32))
    clean = operation.eager(drawn)()
    for bad in (torch.nan, torch.inf):
        x = drawn["x"].clone()
        x[3, 5] = bad
        codes, scales = operation.eager({**drawn, "x": x})()[:2]
        others = [0, 1, 2, 4, 5, 6]
        assert torch.equal(codes.float()[others], clean[0].float()[others])
        assert bool(scales.isfinite().all())
        if codes.dtype == torch.float8_e4m3fn:
            assert bool(codes.float()[3, 5].isnan())


def test_a_norm_without_rows_gives_no_codes() -> None:
    operation = NORM_OPERATIONS["rms_norm_fp8_e4m3_mx32"]
    codes, scales = operation.eager(operation.inputs(NormProblem((0, 64))))()
    assert (codes.shape, scales.shape) == ((0, 64), (0, 2))
