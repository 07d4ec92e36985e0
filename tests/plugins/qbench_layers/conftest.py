"""What the tests of quantized layers share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from qbench_formats import FORMATS
from qbench_modes import MODES
from qbench_suite import Mode, PerChunk, Quantized, Quantizer
from qbench_suite.scaling.compiling import eager


@pytest.fixture(autouse=True)
def _eager_and_seeded() -> Iterator[None]:
    """Compiled kernels give the same bits, after seconds of compiling."""
    torch.manual_seed(0)
    with eager(), torch.no_grad():
        yield


@pytest.fixture
def quantizer() -> Callable[[str], Quantizer]:
    """``quantizer("int8-channel")``; modes are those that ship, and ``chunk<N>``."""
    formats = {format.name: format for format in FORMATS}
    modes = {mode.name: mode for mode in MODES}

    def build(name: str) -> Quantizer:
        format, mode = name.split("-")
        if mode in modes:
            return Quantizer(formats[format], modes[mode])
        chunk = PerChunk(int(mode.removeprefix("chunk")))
        return Quantizer(formats[format], Mode(name=mode, granularity=chunk))

    return build


@pytest.fixture
def assert_compliant() -> Callable[[Quantized], None]:
    """Every value is exactly (q − zero point) · scale for a q of the format."""

    def check(record: Quantized) -> None:
        result = record.result
        zero_point = result.spread_zero_point()
        scale = result.spread_scale()
        values = torch.as_tensor(result.format.values, dtype=torch.float32).sort().values
        q = result.values.float() / scale
        if zero_point is not None:
            q = q + zero_point
        above = torch.searchsorted(values, q.contiguous()).clamp(max=len(values) - 1)
        below = (above - 1).clamp(min=0)
        nearest = torch.where(
            (values[above] - q).abs() < (values[below] - q).abs(), values[above], values[below]
        )
        if zero_point is not None:
            nearest = nearest - zero_point
        assert torch.equal(nearest * scale, result.values), record.name

    return check


@pytest.fixture
def error() -> Callable[[Quantized], float]:
    """Mean square error of a quantized tensor."""

    def mse(record: Quantized) -> float:
        difference: Tensor = record.result.values.double() - record.source.double()
        return float(difference.square().mean())

    return mse
