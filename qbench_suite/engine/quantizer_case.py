"""A quantizer case: the throughput of fake-quantize against copying and against eager."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qbench_suite.compliance import check_grid
from qbench_suite.results import QuantizerRow
from qbench_suite.scaling import Axes, PerTensor, Quantizer, compiling
from qbench_suite.timing import Timer, peak_bytes, synchronised

if TYPE_CHECKING:
    from qbench_suite.engine.engine import Engine
    from qbench_suite.engine.grid import QuantizerCase

#: Eager rounds: each takes many times a compiled one.
_EAGER_ROUNDS = 3


@torch.no_grad()
def run_quantizer_case(
    engine: Engine, case: QuantizerCase, row: QuantizerRow, timer: Timer
) -> None:
    """Fill ``row``: latency, throughput and the ratios to a copy and to eager, all in one run."""
    quantizer = engine.quantizer(case.format, case.mode)
    generator = torch.Generator().manual_seed(engine.settings.seed)
    x = torch.randn(engine.settings.quantizer_shape, generator=generator).to(engine.device)
    axes = Axes.weight(x.dim())
    out = torch.empty_like(x)
    row.shape, row.dtype = "x".join(map(str, x.shape)), str(x.dtype).removeprefix("torch.")
    row.threads = torch.get_num_threads()
    result = quantizer.fake_quantize(x, axes, out=out)
    row.bits_per_value = result.bits_per_value
    row.bytes_moved = _bytes_moved(quantizer, x, result.scale)
    _check_compliance(row, quantizer, x, axes)
    if row.reason:
        row.reason += f" Check what took part: {engine.parties(case, row)}."
    copies: list[float] = []
    copy = synchronised(lambda: out.copy_(x), engine.device)
    before = _recorder(copy, copies)
    samples = timer(
        synchronised(lambda: quantizer.fake_quantize(x, axes, out=out), engine.device), before
    )
    fresh = synchronised(lambda: quantizer.fake_quantize(x, axes), engine.device)
    row.peak_bytes_ratio = peak_bytes(fresh, engine.device) / (x.numel() * x.element_size())
    row.latency_ms, row.latency_min_ms = samples.median_ms, samples.min_ms
    row.latency_iqr_ms, row.rounds = samples.iqr_ms, len(samples.seconds)
    if row.latency_ms is not None:
        row.copy_ms = median(copies[-len(samples.seconds) :]) * 1e3
        row.eager_ms = _eager_ms(fresh)
        row.copy_ratio = row.copy_ms / row.latency_ms
        row.eager_ratio = row.eager_ms / row.latency_ms
        row.gelem_per_s = x.numel() / row.latency_ms * 1e-6
        row.gb_per_s = row.bytes_moved / row.latency_ms * 1e-6
    row.outcome = "passed" if row.compliant else "failed"


def _recorder(function: Callable[[], object], seconds: list[float]) -> Callable[[], None]:
    def call() -> None:
        start = perf_counter()
        function()
        seconds.append(perf_counter() - start)

    return call


def _bytes_moved(quantizer: Quantizer, x: Tensor, scale: Tensor) -> int:
    """What a perfect kernel reads and writes; a scale a tensor must be known before its first use."""
    whole_tensor = isinstance(quantizer.mode.granularity, PerTensor)
    two_reads = (whole_tensor or quantizer.mode.rule.needs_tensor_amax) and (
        not quantizer.format.unit_scale
    )
    return (2 + two_reads) * x.numel() * x.element_size() + scale.numel() * 4


def _check_compliance(row: QuantizerRow, quantizer: Quantizer, x: Tensor, axes: Axes) -> None:
    """On a part of the tensor: the check costs many times the quantization."""
    part = x[: max(1, x.shape[0] // 16)]
    verdict = check_grid(quantizer.fake_quantize(part, axes), part)
    row.violations, row.compliant = verdict.violations, verdict.compliant
    if verdict.examples:
        row.violation = str(verdict.examples[0])
        row.reason = (
            f"Every quantized value is q · scale for a q of {row.format}; first violation "
            f"{row.violation}."
        )


def _eager_ms(function: Callable[[], object]) -> float:
    seconds: list[float] = []
    call = _recorder(function, seconds)
    with compiling.eager():
        for _ in range(_EAGER_ROUNDS + 1):
            call()
    return median(seconds[1:]) * 1e3
