"""Rows of whole-model cases: one a (model, policy), one a layer of it, one a value off the grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from qbench_suite.results.evaluated_row import EvaluatedRow
from qbench_suite.results.row import column, plain


@dataclass(kw_only=True)
class DetailRow:
    """A row that belongs to a case's row, and is written with it; column ``case`` joins the two."""

    #: Name of the table that rows of this kind make up.
    table: ClassVar[str] = ""

    case: str = column("id of the case, as between the brackets of the pytest id", default="")

    def to_json(self) -> dict[str, Any]:
        """The row as plain JSON types, as ``Row.to_json`` gives it."""
        return {name: plain(value) for name, value in vars(self).items()}


@dataclass(kw_only=True)
class ModelRow(EvaluatedRow):
    """A whole model converted by a policy, against its float original on the same images."""

    table: ClassVar[str] = "models"

    policy: str = column("name of the policy", default="")
    policy_hash: str = column("first 12 digits of SHA-256 of the policy as resolved", default="")
    formats: str = column("formats in use, separated by ;", default="")
    modes: str = column("modes in use, separated by ;", default="")
    scales: str = column("dynamic or static: when scales of activations are computed", default="")
    range_rules: str = column("range rules in use, separated by ;", default="")
    rounding: str = column(
        "rounding rules of weights, separated by ; and none for nearest", default=""
    )
    rounding_seconds: float | None = column(
        "wall time of the rounding rules, passes over calibration images not counted; of weights taken from the cache, what they took when they were made",
        "s",
    )
    rounding_gain_db: float | None = column(
        "mean over the layers with a rounding rule of rounding_sqnr_db − rounding_sqnr_before_db, see model_layers",
        "dB",
    )
    kernel_layers: int | None = column(
        "layers that a kernel computes, whose names table model_layers has; all others are emulated",
        "layers",
    )
    calibration: str = column(
        "dataset, number of images and seed that static scales and rounding come from", default=""
    )
    multiply_adds: int | None = column("multiply-adds of one image", "multiply-adds")
    coverage: float | None = column(
        "share of multiply-adds with at least one quantized operand, found by following the data"
    )
    full_coverage: float | None = column("share of multiply-adds with both operands quantized")
    quantized_layers: int | None = column("modules and calls that quantize something", "layers")
    float_layers: int | None = column(
        "modules and calls that compute something and stay float; table model_layers says why",
        "layers",
    )
    weight_bits: float | None = column(
        "mean bits of a parameter with its share of scales, 32 for float ones", "bits"
    )
    input_bits: float | None = column(
        "mean bits of an operand that layers with multiply-adds read, weighted by these", "bits"
    )
    weight_bytes: int | None = column("bytes of all parameters, codes packed, with scales", "bytes")
    checked_values: int | None = column("values that compliance looked at", "values")
    compliance: str = column("what was looked at: role=tensors, separated by ;", default="")
    fp32_latency_ms: float | None = column(
        "median latency of the float model on the same batch, timed before each round", "ms"
    )
    slowdown: float | None = column(
        "median over the rounds of latency / float latency of the same round, without layer-wise metrics"
    )
    layerwise_slowdown: float | None = column(
        "median over rounds of the time of both models with layer-wise metrics / the float model's; "
        "empty without them"
    )


@dataclass(kw_only=True)
class ModelLayerRow(DetailRow):
    """A layer of a converted model: what became of it, and how far the network has drifted there."""

    table: ClassVar[str] = "model_layers"

    model: str = column("name of the model", default="")
    policy: str = column("name of the policy", default="")
    order: int | None = column("place among the layers, in the order in which they run")
    layer: str = column(
        "dotted name of the module; of a function call, that of the module it is in, and :kind",
        default="",
    )
    layer_type: str = column("class of the float module, or kind of the function call", default="")
    quant_type: str = column("class that replaces it; empty where it stays float", default="")
    roles: str = column("what is quantized: role=format-mode, separated by ;", default="")
    reason: str = column("why it stays float; empty where it does not", default="")
    rounding: str = column(
        "rule that its weight is rounded by; why to nearest where the policy names another one; empty for nearest",
        default="",
    )
    rounding_flipped: float | None = column(
        "share of its weights whose code is not the nearest one"
    )
    rounding_sqnr_before_db: float | None = column(
        "10 log10(Σ ‖Wx‖² / Σ ‖Wx − Qx̂‖²) with Q = W rounded to nearest, over calibration images held back: x what it reads in the float model, x̂ in the converted one",
        "dB",
    )
    rounding_sqnr_db: float | None = column("the same with Q as the rule rounds it", "dB")
    kernel: str = column(
        "linear layer of low precision that computes it, with the same weights; empty where it is emulated",
        default="",
    )
    kernel_reason: str = column(
        "why it is emulated though the policy names a kernel; empty otherwise", default=""
    )
    multiply_adds: int | None = column("multiply-adds of one image", "multiply-adds")
    coverage: float | None = column("share of them with at least one quantized operand")
    weight_bits: float | None = column(
        "bits of a weight with its share of scales; empty without weights", "bits"
    )
    mse: float | None = column(
        "mean((y − r)²) of its output y in the converted model against r in the float one: propagated"
    )
    sqnr_db: float | None = column("10 log10(Σ r² / Σ (y − r)²); inf where there is no error", "dB")
    cosine: float | None = column("Σ y·r / (‖y‖ ‖r‖)")
    max_abs_err: float | None = column("max |y − r|")
    nonfinite_count: int | None = column(
        "outputs that are NaN or ±Inf where the float model's are finite", "values"
    )
    input_min: float | None = column("smallest finite element it reads in the converted model")
    input_max: float | None = column("largest finite element it reads in the converted model")
    input_absmax: float | None = column("largest finite magnitude it reads")
    input_dynamic_range_db: float | None = column(
        "20 log10(absmax / smallest magnitude above 0) of what it reads", "dB"
    )
    checked_values: int | None = column("values of it that compliance looked at", "values")
    violations: int | None = column("values of it off the grid", "values")


@dataclass(kw_only=True)
class ViolationRow(DetailRow):
    """A value of a converted model that claims to be quantized and is not on the grid."""

    table: ClassVar[str] = "violations"

    model: str = column("name of the model", default="")
    policy: str = column("name of the policy", default="")
    layer: str = column("name of the layer, as in model_layers", default="")
    role: str = column("weight, input, act, output or statistics", default="")
    tensor: str = column("name of the tensor within the layer", default="")
    index: str = column("index of the element, separated by ,", default="")
    value: str = column("the value, in full precision", default="")
    nearest_below: str = column("the largest legal value not above it", default="")
    nearest_above: str = column("the smallest legal value not below it", default="")
    scale: str = column("the scale of its group", default="")
    format: str = column("name of the format", default="")
    mode: str = column("name of the scaling mode", default="")
    batch_index: int | None = column("which batch it was found in, from 0; empty for weights")
