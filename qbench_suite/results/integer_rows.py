"""Rows of integer cases: a model of which blocks run in integers, and what each step of a block gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qbench_suite.results.evaluated_row import EvaluatedRow
from qbench_suite.results.model_rows import DetailRow
from qbench_suite.results.row import column


@dataclass(kw_only=True)
class IntegerRow(EvaluatedRow):
    """A model with blocks that run in integers, against its float original: accuracy, proof, speed."""

    table: ClassVar[str] = "integers"

    method: str = column("name of the method that made the blocks", default="")
    calibration: str = column("dataset, number of images and seed of the calibration", default="")
    calibration_s: float | None = column(
        "time of conversion with its calibration, without the reading of images", "s"
    )
    blocks: int | None = column("blocks that run in integers", "blocks")
    refused_blocks: int | None = column("blocks of the kind that stay float", "blocks")
    refused: str = column("which these are and why: name: reason, separated by ;", default="")
    state_bytes: int | None = column("bytes of the state dicts of all integer blocks", "bytes")
    fp32_state_bytes: int | None = column("bytes of those of the float blocks", "bytes")
    integer_only: bool | None = column(
        "no float operation was found in a block; empty where none was found, but not every audit could be made"
    )
    audits: str = column(
        "what each audit looked at and what it found, of all distinct block structures, separated by ;",
        default="",
    )
    structures: int | None = column(
        "distinct block structures: one block of each is audited", "blocks"
    )
    audited_operations: int | None = column(
        "operations that ran in the audited blocks, as seen by the dispatcher", "operations"
    )
    float_operations: int | None = column(
        "uses of floats that the audits of operations, graphs and state found", "uses"
    )
    audited_instructions: int | None = column(
        "instructions of the libraries that blocks compute in", "instructions"
    )
    float_instructions: int | None = column(
        "of these, those that compute with floats", "instructions"
    )
    stage_images: int | None = column("images that stages are compared on", "images")
    branch_sqnr_db: float | None = column(
        "10 log10(Σ (r − x)² / Σ (y − r)²) of a block's output y, that of the float block r and their input x: smallest of all blocks",
        "dB",
    )
    branch_sqnr_mean_db: float | None = column("mean of it over the blocks", "dB")
    worst_block: str = column("dotted name of the block of the smallest", default="")
    threads: int | None = column("threads torch computes with", "threads")
    timed_batch: int | None = column("images that all latencies are of", "images")
    timed_block: str = column(
        "dotted name of the block that latency_ms and those of its float twins are of", default=""
    )
    block_fp32_ms: float | None = column(
        "median latency of the float32 block, timed before each round", "ms"
    )
    block_bf16_ms: float | None = column("likewise of the bfloat16 block", "ms")
    block_bf16_compiled_ms: float | None = column(
        "likewise of the bfloat16 block as compiled by torch.compile, weights frozen", "ms"
    )
    uncompiled: str = column("why there is no compiled block to compare with", default="")
    speedup_fp32: float | None = column(
        "median over the rounds of latency of the float32 block / latency_ms of the same round"
    )
    speedup_bf16: float | None = column("likewise against the bfloat16 block")
    speedup_bf16_compiled: float | None = column("likewise against the compiled bfloat16 block")
    model_ms: float | None = column(
        "median latency of the whole model, images to logits, with its integer blocks", "ms"
    )
    model_fp32_ms: float | None = column(
        "median latency of the float model, timed before each round", "ms"
    )
    model_speedup: float | None = column(
        "median over the rounds of latency of the float model / that with integer blocks of the same round"
    )
    min_sqnr_db: float | None = column(
        "gate that sqnr_db must reach; empty where the gate table has none", "dB"
    )


@dataclass(kw_only=True)
class IntegerStageRow(DetailRow):
    """A step of an integer block against the same step of the float block, on the float block's input."""

    table: ClassVar[str] = "integer_stages"

    model: str = column("name of the model", default="")
    method: str = column("name of the method that made the block", default="")
    order: int | None = column("place among the steps of all blocks, in order of execution")
    block: str = column("dotted name of the float block", default="")
    stage: str = column("name of the step; branch is output − input of the whole block", default="")
    mse: float | None = column("mean((y − r)²) of what the step gives y against the float step's r")
    sqnr_db: float | None = column("10 log10(Σ r² / Σ (y − r)²); inf where there is no error", "dB")
    cosine: float | None = column("Σ y·r / (‖y‖ ‖r‖)")
    max_abs_err: float | None = column("max |y − r|")
    nonfinite_count: int | None = column(
        "values that are NaN or ±Inf where the float step's are finite", "values"
    )
