"""Rows of norm cases: a normalization kernel against float64 and against torch's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qbench_suite.results.model_rows import DetailRow
from qbench_suite.results.row import Row, column


@dataclass(kw_only=True)
class NormRow(Row):
    """A normalization kernel on a shape and dtype: its error against float64, its speed."""

    table: ClassVar[str] = "norms"

    provider: str = column("who made the kernel", default="")
    kernel_owner: str = column("plugin that provides it", default="")
    operation: str = column("what it computes", default="")
    direction: str = column("forward or backward", default="")
    shape: str = column("lengths of the axes of the input", default="")
    dtype: str = column("dtype of the input", default="")
    affine: str = column("weight and bias it is given", default="")
    threads: int | None = column("threads torch computes with", "threads")
    method: str = column(
        "cuda_graph: CUDA events around many calls in a graph; cuda_events: the same without a graph, "
        "as they cannot be captured; wall_clock",
        default="",
    )
    cache: str = column(
        "cold: calls take input_sets in turn, which exceed three times the L2 cache; warm: every call "
        "reads the same inputs, or sets that do not",
        default="",
    )
    no_graph: str = column("why calls are cuda_events and no graph; empty otherwise", default="")
    input_sets: int | None = column("equal sets of inputs that calls take in turn", "sets")
    warm_latency_ms: float | None = column(
        "median latency of calls on one set of inputs, on CUDA devices", "ms"
    )
    host_overhead_us: float | None = column(
        "wall time of a call among calls that the host launches one by one, less latency_ms, at least "
        "0; on CUDA devices",
        "µs",
    )
    bytes_moved: int | None = column(
        "bytes a perfect kernel moves: inputs read and outputs written once, as the operation counts",
        "bytes",
    )
    gb_per_s: float | None = column("10⁻⁹ · bytes_moved / median latency", "GB/s")
    copy_gb_per_s: float | None = column(
        "10⁻⁹ · bytes_moved / median time of a copy that reads half of the bytes and writes half, timed "
        "before each round, with as many sets of buffers",
        "GB/s",
    )
    copy_max_gb_per_s: float | None = column("the same of the fastest of these copies", "GB/s")
    warm_copy_gb_per_s: float | None = column(
        "the same of copies on one set of buffers, median; on CUDA devices", "GB/s"
    )
    copy_share: float | None = column(
        "median over the rounds of time of the copy / latency of the same round: 1 is the speed of copying"
    )
    peak_gb_per_s: float | None = column(
        "2 · memory clock · bus width of the device; empty where it does not tell", "GB/s"
    )
    torch_latency_ms: float | None = column(
        "median latency of torch's own eager operations, timed before each round", "ms"
    )
    torch_method: str = column("method by which these were timed", default="")
    speedup_torch: float | None = column(
        "median over the rounds of torch's latency / latency of the same round"
    )
    max_ulp: float | None = column(
        "largest error against float64 of the output nearest its tolerance, |y − r| / ulp(max(|r|, rms r))",
        "ulp",
    )
    p999_ulp: float | None = column("error that 99.9 % of that output stay within", "ulp")
    worst_output: str = column("name of that output", default="")
    tolerance_ulp: float | None = column("gate that max_ulp must not exceed", "ulp")
    torch_max_ulp: float | None = column("max_ulp of torch's own on that output", "ulp")
    ulp_over_torch: float | None = column("max_ulp / max(torch_max_ulp, 1)")
    codes_off: float | None = column(
        "share of quantized codes, or of integers, that differ from those of the float64 result; empty "
        "where there are none"
    )
    nonfinite_count: int | None = column(
        "outputs that are NaN or ±Inf where the float64 ones are not, and vice versa", "values"
    )
    deterministic: bool | None = column(
        "later calls, timed ones too, give the bits of the first; running statistics, which go on from "
        "call to call, where prepared afresh"
    )


@dataclass(kw_only=True)
class NormOutputRow(DetailRow):
    """One output of a norm kernel against float64."""

    table: ClassVar[str] = "norm_outputs"

    output: str = column("name of the output", default="")
    dtype: str = column(
        "dtype whose ulps count: that of the output, or of the input for scales", default=""
    )
    max_ulp: float | None = column("largest error; of integers 0 or ∞; empty for codes", "ulp")
    p999_ulp: float | None = column("error that 99.9 % of the elements stay within", "ulp")
    torch_max_ulp: float | None = column("max_ulp of torch's own", "ulp")
    tolerance_ulp: float | None = column("gate that max_ulp must not exceed", "ulp")
    codes_off: float | None = column(
        "share of codes or integers that differ from those of the float64 result; empty for floats"
    )
    codes_far: int | None = column("codes that differ by more than the next one", "values")
    nonfinite_count: int | None = column(
        "elements that are NaN or ±Inf where the float64 ones are not, and vice versa", "values"
    )
