"""Rows of linear cases: a layer that computes in low precision, against float32 and bfloat16."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qbench_suite.results.row import Row, column


@dataclass(kw_only=True)
class LinearRow(Row):
    """A linear layer that computes in low precision, against float layers of the same weights."""

    table: ClassVar[str] = "linears"

    entry: str = column("name of the linear layer", default="")
    entry_owner: str = column("plugin that provides it", default="")
    dtype: str = column("dtype of inputs and outputs", default="")
    in_features: int | None = column("length of an input row", "values")
    out_features: int | None = column("length of an output row", "values")
    rows: int | None = column("rows of the input", "rows")
    kernel: str = column(
        "what the layer says it runs so many rows in; empty where it does not say", default=""
    )
    threads: int | None = column("threads torch computes with", "threads")
    fp32_latency_ms: float | None = column(
        "median latency of the float32 layer, timed before each round", "ms"
    )
    bf16_latency_ms: float | None = column(
        "median latency of the bfloat16 layer, timed before each round", "ms"
    )
    speedup_fp32: float | None = column(
        "median over the rounds of float32 latency / latency of the same round"
    )
    speedup_bf16: float | None = column(
        "median over the rounds of bfloat16 latency / latency of the same round"
    )
    weight_bytes: int | None = column(
        "bytes of its parameters and buffers: codes, scales and what kernels keep", "bytes"
    )
    fp32_weight_bytes: int | None = column("bytes of the float32 layer's parameters", "bytes")
    compression: float | None = column("fp32_weight_bytes / weight_bytes")
    peak_bytes: int | None = column(
        "peak of the memory allocated during a call, its output included", "bytes"
    )
    bytes_moved: int | None = column(
        "bytes a perfect kernel moves: weight_bytes, input and output, each once", "bytes"
    )
    gb_per_s: float | None = column("10⁻⁹ · bytes_moved / median latency", "GB/s")
    mse: float | None = column(
        "mean((y − r)²) of the output y against r, the float32 layer's on the same input"
    )
    sqnr_db: float | None = column("10 log10(Σ r² / Σ (y − r)²); inf where there is no error", "dB")
    max_abs_err: float | None = column("max |y − r|")
    bf16_sqnr_db: float | None = column("sqnr_db of the bfloat16 layer on the same input", "dB")
    weight_sqnr_db: float | None = column(
        "SQNR of the values its codes stand for against the float32 weights; empty where untold",
        "dB",
    )
    nonfinite_count: int | None = column(
        "outputs that are NaN or ±Inf where the float32 layer's are finite", "values"
    )
    min_sqnr_db: float | None = column(
        "gate that sqnr_db must reach; empty where the gate table has none", "dB"
    )
