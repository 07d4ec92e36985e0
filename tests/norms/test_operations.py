"""Operations: torch's own outputs are the float64 reference's, in every dtype and affine option."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from qbench_suite import NORM_OPERATIONS, NormOperation, NormProblem, ulp_errors

DTYPES = ("float32", "float16", "bfloat16")
FLOATING = [op for op in NORM_OPERATIONS.values() if op.quantized is None]
CASES = [(op, dtype, affine) for op in FLOATING for dtype in DTYPES for affine in op.affine]
IDS = [f"{op.name}-{dtype}-{affine}" for op, dtype, affine in CASES]
#: Torch rounds the normalized value, or alpha · x, to 16 bits before it goes on, as it does weight + 1.
ROUNDS_BETWEEN = ("adaptive", "dynamic_tanh")

ROWS = ("layer_norm", "rms_norm", "add_layer_norm", "add_rms_norm")
IMAGES = ("group_norm", "batch_norm")
SPECS = (
    "fp8_e4m3_static",
    "fp8_e4m3_token",
    "fp8_e4m3_chunk128",
    "fp8_e4m3_mx32",
    "int8_static",
    "int8_token",
)


def shape_of(operation: NormOperation) -> tuple[int, ...]:
    """A small shape, its lengths no powers of two where they need not be."""
    if "attention" in operation.fused:
        return (2, 3, 5, 16)
    return {2: (6, 97), 3: (2, 3, 65), 4: (2, 6, 3, 5)}[operation.rank]


def drawn(operation: NormOperation, dtype: str = "float32", affine: str | None = None) -> dict:
    problem = NormProblem(shape_of(operation), getattr(torch, dtype), affine)  # type: ignore[arg-type]
    return operation.inputs(problem)


def test_names_are_stable() -> None:
    """They are part of case ids: a renamed operation would lose its history."""
    both = [
        *ROWS,
        "adaptive_layer_norm",
        "adaptive_layer_norm_token",
        "weight_norm",
        "dynamic_tanh",
    ]
    images = [f"{name}{order}" for name in IMAGES for order in ("", "_nhwc")]
    forward = [*both, *images, "batch_norm_inference", "batch_norm_inference_nhwc"]
    alone = ["gated_adaptive_layer_norm", "qk_norm_attention"]
    codes = itertools.product(("layer_norm", "rms_norm", "add_rms_norm"), SPECS)
    expected = [
        *forward,
        *alone,
        *(f"{name}_backward" for name in both + images),
        *(f"{norm}_{spec}" for norm, spec in codes),
    ]
    assert sorted(NORM_OPERATIONS) == sorted(expected)
    assert all(name == operation.name for name, operation in NORM_OPERATIONS.items())


@pytest.mark.parametrize(("operation", "dtype", "affine"), CASES, ids=IDS)
def test_torch_computes_the_reference(operation: NormOperation, dtype: str, affine: str) -> None:
    inputs = drawn(operation, dtype, affine)
    kept = {name: v.clone() for name, v in inputs.items() if isinstance(v, Tensor)}
    outputs, exact = operation.eager(inputs)(), operation.exact(inputs)
    between = affine == "one_plus_weight" or any(part in operation.name for part in ROUNDS_BETWEEN)
    # On a CPU it sums gradients of 16 bits in 16 bits.
    slack = 4 if between and dtype != "float32" else 1 + (operation.direction == "backward")
    # A backward has the gradients of those affine tensors that there are: a prefix.
    there = [
        name for name in operation.outputs if inputs.get(name.removeprefix("d"), 0) is not None
    ]
    assert len(outputs) == len(exact) == len(there)
    assert tuple(there) == operation.outputs[: len(there)]
    for name, output, reference in zip(operation.outputs, outputs, exact, strict=False):
        assert reference.dtype == torch.float64
        assert output.shape == reference.shape, name
        found = ulp_errors(output, reference)
        bound = operation.tolerance_ulps[str(output.dtype).removeprefix("torch.")]
        assert found.max_ulp <= bound * slack, (name, found)
        assert found.nonfinite == 0
    for name, tensor in kept.items():
        assert torch.equal(inputs[name], tensor), f"{name} is left as it was"


@pytest.mark.parametrize("operation", NORM_OPERATIONS.values(), ids=NORM_OPERATIONS)
def test_a_problem_draws_the_same_inputs_every_time(operation: NormOperation) -> None:
    first, second = drawn(operation), drawn(operation)
    other = operation.inputs(NormProblem(shape_of(operation), seed=1))
    assert first.keys() == second.keys()
    tensors = [name for name, value in first.items() if isinstance(value, Tensor)]
    assert all(torch.equal(first[name], second[name]) for name in tensors)
    assert any(not torch.equal(first[name], other[name]) for name in tensors)


@pytest.mark.parametrize("operation", NORM_OPERATIONS.values(), ids=NORM_OPERATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_have_the_dtype_of_the_problem(operation: NormOperation, dtype: str) -> None:
    """But scales, and what torch keeps in float32 beside a batch_norm."""
    inputs = drawn(operation, dtype)
    statistics = {"weight", "bias", "running_mean", "running_var"}
    wide = statistics if operation.name.startswith("batch_norm") else {"scale"}
    wide = wide if operation.quantized or operation.name.startswith("batch_norm") else set()
    for name, value in inputs.items():
        if isinstance(value, Tensor):
            expected = torch.float32 if name in wide else getattr(torch, dtype)
            assert value.dtype == expected, name


@pytest.mark.parametrize("operation", FLOATING, ids=lambda op: op.name)
def test_images_keep_their_memory_order(operation: NormOperation) -> None:
    """Incoming gradients have it too, and torch's outputs."""
    if operation.layout == "rows":
        pytest.skip("rows have one memory order")
    order = torch.contiguous_format if operation.layout == "nchw" else torch.channels_last
    inputs = drawn(operation)
    images = [v for v in inputs.values() if isinstance(v, Tensor) and v.dim() == operation.rank]
    assert len(images) == (2 if operation.direction == "backward" else 1)
    assert all(image.is_contiguous(memory_format=order) for image in images)
    assert operation.eager(inputs)()[0].is_contiguous(memory_format=order)


def test_affine_options_leave_tensors_out() -> None:
    for option, (weight, bias, offset) in {
        "weight_bias": (True, True, 0.0),
        "weight": (True, False, 0.0),
        "one_plus_weight": (True, False, 1.0),
        "none": (False, False, 0.0),
    }.items():
        inputs = drawn(NORM_OPERATIONS["layer_norm"], affine=option)
        found = (inputs["weight"] is not None, inputs["bias"] is not None, inputs["weight_offset"])
        assert found == (weight, bias, offset)
    plain = drawn(NORM_OPERATIONS["rms_norm"])
    assert plain["weight"] is not None
    assert "bias" not in plain


def test_one_plus_weight_is_the_weight_one_larger() -> None:
    operation = NORM_OPERATIONS["rms_norm"]
    inputs = drawn(operation, affine="one_plus_weight")
    larger = {**inputs, "weight": inputs["weight"].double() + 1, "weight_offset": 0.0}
    assert torch.equal(operation.exact(inputs)[0], operation.exact(larger)[0])


def test_conditions_are_views_of_one_tensor() -> None:
    """As ``condition.chunk(6)`` gives them: a kernel that asks for contiguous ones copies."""
    for name, tokens in (("adaptive_layer_norm", 1), ("adaptive_layer_norm_token", 3)):
        inputs = drawn(NORM_OPERATIONS[name])
        for part in ("scale", "shift"):
            assert inputs[part].shape == (2, tokens, 65)
            assert inputs[part].stride()[1:] == (6 * 65, 1)


def test_totals_are_rounded_before_they_are_normalized() -> None:
    """As the unfused chain does: bit-equal to torch's sum, and y is that of the rounded sum."""
    operation = NORM_OPERATIONS["add_rms_norm"]
    inputs = drawn(operation, "bfloat16")
    y, total = operation.exact(inputs)
    assert torch.equal(total, (inputs["x"] + inputs["residual"]).double())
    plain = {**inputs, "x": total.bfloat16()}
    assert torch.equal(y, NORM_OPERATIONS["rms_norm"].exact(plain)[0])


def test_running_statistics_are_of_one_update() -> None:
    operation = NORM_OPERATIONS["batch_norm"]
    inputs = drawn(operation)
    _, mean, var = operation.exact(inputs)
    x = inputs["x"].double()
    expected = 0.9 * inputs["running_mean"].double() + 0.1 * x.mean((0, 2, 3))
    assert torch.allclose(mean, expected, rtol=1e-12)
    # The variance of the update has divisor n − 1.
    unbiased = x.permute(1, 0, 2, 3).flatten(1).var(1)
    expected = 0.9 * inputs["running_var"].double() + 0.1 * unbiased
    assert torch.allclose(var, expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
def test_the_reference_holds_a_large_mean(name: str) -> None:
    """The oracle itself must not lose what kernels are judged by."""
    x = torch.randn(3, 4096, generator=torch.Generator().manual_seed(0)) + 1e6
    inputs = {"x": x, "weight": None, "bias": None, "weight_offset": 0.0, "eps": 1e-5}
    y = NORM_OPERATIONS[name].exact(inputs)[0]
    centred = x.double() - (x.double().mean(1, keepdim=True) if name == "layer_norm" else 0)
    moment = centred.square().sum(1, keepdim=True) / 4096
    assert torch.allclose(y, centred * (moment + 1e-5).rsqrt(), rtol=1e-9, atol=1e-9)


def test_a_backward_knows_its_forward_and_takes_its_gradients() -> None:
    """Any differentiable way to compute the forward will do: here one in plain steps."""
    operation = NORM_OPERATIONS["rms_norm_backward"]
    assert operation.forward is NORM_OPERATIONS["rms_norm"]
    assert operation.gradients_of is not None
    inputs = drawn(operation)

    def run(given: object) -> tuple[Tensor, ...]:
        x, weight = given["x"], given["weight"]  # type: ignore[index]
        return (x * (x.square().mean(-1, keepdim=True) + inputs["eps"]).rsqrt() * weight,)

    gradients = operation.gradients_of(inputs, run)
    for _ in range(2):  # a thunk may be called again
        for found, exact in zip(gradients(), operation.exact(inputs), strict=True):
            assert ulp_errors(found, exact).max_ulp <= 32
