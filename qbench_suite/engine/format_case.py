"""A format case: its values, its error on a distribution, and whether its rounding is lawful."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qbench_suite.compliance import check_grid
from qbench_suite.errors import FormatError
from qbench_suite.formats import Format
from qbench_suite.metrics import error_metrics
from qbench_suite.results import FormatRow
from qbench_suite.scaling import Mode, PerTensor, Quantizer
from qbench_suite.timing import Timer, synchronised

if TYPE_CHECKING:
    from qbench_suite.engine.engine import Engine
    from qbench_suite.engine.grid import FormatCase

_SAMPLES = 1 << 16


def draw(distribution: str, seed: int, count: int = _SAMPLES) -> Tensor:
    """``count`` float32 samples of a distribution.

    ``normal``, ``uniform`` in ±1, ``laplace``, ``lognormal`` with random signs, ``outliers``: normal
    with every 100th sample a hundredfold. Raises ``FormatError`` for another name.
    """
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(count, generator=generator)
    uniform = torch.rand(count, generator=generator) * 2 - 1
    match distribution:
        case "normal":
            return normal
        case "uniform":
            return uniform
        case "laplace":
            return -uniform.sign() * torch.log1p(-uniform.abs())
        case "lognormal":
            return normal.exp() * uniform.sign()
        case "outliers":
            normal[::100] *= 100
            return normal
    raise FormatError(f"A format case draws from a known distribution; got {distribution!r}.")


@torch.no_grad()
def run_format_case(engine: Engine, case: FormatCase, row: FormatRow, timer: Timer) -> None:
    """Fill ``row``: facts of the format, error, lawfulness of its rounding, latency of ``round``."""
    format = engine.manager.formats.get(case.format)
    _describe(row, format)
    x = draw(case.distribution, engine.settings.seed).to(engine.device)
    row.samples = x.numel()
    if format.scale_only:
        x = x.abs()
        rounded = _round(format, x)
        error = error_metrics(x, rounded)
        row.violations = int((~format.contains(rounded)).sum())
    else:
        tensor = Mode(name="tensor", granularity=PerTensor())
        result = Quantizer(format, tensor, engine.settings.seed).fake_quantize(x)
        verdict = check_grid(result, x)
        row.violations = verdict.violations
        row.violation = str(verdict.examples[0]) if verdict.examples else ""
        error = error_metrics(x, result.values)
        rounded = _round(format, x / result.scale)
    row.mse, row.sqnr_db = error.mse, error.sqnr_db
    row.compliant = row.violations == 0
    _check_rounding(row, format, x, rounded)
    samples = timer(synchronised(lambda: _round(format, x), engine.device))
    row.latency_ms, row.latency_min_ms = samples.median_ms, samples.min_ms
    row.latency_iqr_ms, row.rounds = samples.iqr_ms, len(samples.seconds)
    _judge(engine, case, row)


def _describe(row: FormatRow, format: Format) -> None:
    row.bits = format.bits
    row.value_count = len(format.values) if format.bits <= 16 else None
    row.max_value, row.smallest_value = format.max, format.smallest
    row.dynamic_range_db = 20 * (math.log10(format.max) - math.log10(format.smallest))


def _round(format: Format, x: Tensor) -> Tensor:
    """``format.round`` with fixed noise where it needs any, so that it is a function of x."""
    noise = torch.full_like(x, 0.5) if format.noisy else None
    rounded = format.round(x, noise=noise) if format.noisy else format.round(x)
    if rounded.shape != x.shape:
        raise FormatError(
            f"round returns the shape it is given; {format.name} returned {tuple(rounded.shape)} for "
            f"{tuple(x.shape)}. Mend its round."
        )
    return rounded


def _check_rounding(row: FormatRow, format: Format, x: Tensor, rounded: Tensor) -> None:
    again = _round(format, rounded)
    row.idempotent = torch.equal(again, rounded)
    ordered = _round(format, x.sort().values)
    row.monotonic = bool((ordered[1:] >= ordered[:-1]).all())
    if not row.violations:
        row.round_trip = torch.equal(format.decode(format.encode(rounded)), rounded)


def _judge(engine: Engine, case: FormatCase, row: FormatRow) -> None:
    row.min_sqnr_db = engine.gates.min_sqnr_db("formats", case.format, "tensor", case.distribution)
    unlawful = [law for law in ("idempotent", "monotonic") if not getattr(row, law)]
    owner = engine.manager.formats.owner(case.format)
    row.outcome = "failed"
    if row.violations:
        row.reason = (
            f"Every rounded value is one of the format's; {row.violations} of {case.format} are not, "
            f"first {row.violation}. The format is of {owner}: check its round and its values."
        )
    elif unlawful or row.round_trip is False:
        laws = ", ".join(unlawful or ["round_trip"])
        row.reason = f"Rounding is lawful; {case.format} of {owner} is not: {laws}. Mend its round."
    elif row.min_sqnr_db is not None and row.sqnr_db is not None and row.sqnr_db < row.min_sqnr_db:
        row.reason = (
            f"sqnr_db of {case.format} on {case.distribution} is at least {row.min_sqnr_db:g} dB; got "
            f"{row.sqnr_db:.2f} dB. Check its round, or pass another gate table (--qbench-gates)."
        )
    else:
        row.outcome = "passed"
