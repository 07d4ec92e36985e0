"""Forward norms of rows against float64: every way a row is held, memory order, dtype and affine option."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from qbench_norms_cuda.row_forward import RowOutputs, row_forward
from qbench_norms_cuda.row_plan import holding
from qbench_suite import (
    NORM_OPERATIONS,
    SM_80,
    SM_90,
    Architecture,
    LaunchError,
    NormOperation,
    NormProblem,
    architecture_of,
    emulating,
    ulp_errors,
)

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
#: An architecture whose blocks have little shared memory, so that short rows are cut already.
SMALL = dataclasses.replace(SM_90, shared_bytes=20_000)
STATISTICS = {"layer_norm": "layer", "rms_norm": "rms"}


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same values in every run."""
    torch.manual_seed(5)


def forward(name: str, inputs: dict[str, Any], *, save: bool = False) -> RowOutputs:
    """What ``row_forward`` gives for the inputs of an operation."""
    names = ("weight", "bias", "weight_offset", "residual", "gate", "scale", "shift")
    options = {key: inputs[key] for key in names if inputs.get(key) is not None}
    statistic = "layer" if "layer" in name else "rms"
    return row_forward(inputs["x"], statistic, inputs["eps"], save=save, **options)


def assert_close(output: Tensor | None, reference: Tensor, operation: NormOperation) -> None:
    """``output`` is as near to float64 as the operation asks for."""
    assert output is not None
    errors = ulp_errors(output, reference)
    assert errors.nonfinite == 0
    assert errors.max_ulp <= operation.tolerance_ulps[str(output.dtype).removeprefix("torch.")]


def inputs_of(name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Any:
    return NORM_OPERATIONS[name].inputs(NormProblem(shape, dtype, seed=2, device=device))


def root_mean_square(error: Tensor) -> float:
    return float(error.double().square().mean().sqrt())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize("n", [1, 7, 32, 128, 768, 1000, 1001, 4096, 5120])
def test_rows_of_every_length_are_as_exact_as_those_of_torch(
    n: int, name: str, dtype: torch.dtype, device: torch.device
) -> None:
    operation = NORM_OPERATIONS[name]
    inputs = inputs_of(name, (9, n), dtype, device)
    y = forward(name, inputs).y
    (reference,) = operation.exact(inputs)
    assert_close(y, reference, operation)
    (own,) = operation.eager(inputs)()
    assert y is not None
    noise = 0.1 * torch.finfo(dtype).eps
    assert root_mean_square(y - reference) <= 1.05 * root_mean_square(own - reference) + noise


HELD = {
    "8 lanes": (64, SM_90),
    "16 lanes": (500, SM_90),
    "32 lanes": (1000, SM_90),
    "a block": (3072, SM_90),
    "a block's shared memory": (20_000, SM_80),
    "a cluster": (66_000, SM_90),
    "slices": (20_001, SMALL),
}


@pytest.mark.parametrize(("n", "architecture"), HELD.values(), ids=HELD)
def test_each_way_of_holding_a_row_gives_sum_norm_and_statistics(
    n: int, architecture: Architecture
) -> None:
    operation = NORM_OPERATIONS["add_layer_norm"]
    inputs = inputs_of("add_layer_norm", (3, n), torch.bfloat16, torch.device("cpu"))
    with emulating(architecture):
        made = forward("add_layer_norm", inputs, save=True)
    y, total = operation.exact(inputs)
    assert_close(made.y, y, operation)
    assert_close(made.total, total, operation)
    centred = total - total[:, :1]
    assert made.offset is not None
    assert made.rstd is not None
    torch.testing.assert_close(made.offset.double(), centred.mean(-1), rtol=1e-6, atol=1e-6)
    rstd = (total.var(-1, correction=0) + inputs["eps"]).rsqrt()
    torch.testing.assert_close(made.rstd.double(), rstd, rtol=1e-6, atol=0)


def test_rows_are_held_as_their_length_and_the_architecture_ask_for() -> None:
    held = {name: holding(n, 2, architecture) for name, (n, architecture) in HELD.items()}
    assert [held[f"{lanes} lanes"].lanes for lanes in (8, 16, 32)] == [8, 16, 32]
    assert held["a block"].lanes == 96
    assert held["a block"].items == 4
    assert held["a block's shared memory"].shared_items == 5
    assert held["a block's shared memory"].cluster == 1
    assert held["a cluster"].cluster == 4
    assert held["slices"].slices == 3
    assert holding(10**9, 4, SM_80).slices > 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [128, 1001])
@pytest.mark.parametrize(
    "name",
    [
        "add_rms_norm",
        "adaptive_layer_norm",
        "adaptive_layer_norm_token",
        "gated_adaptive_layer_norm",
    ],
)
def test_what_is_fused_is_as_exact_as_the_norm(
    name: str, n: int, dtype: torch.dtype, device: torch.device
) -> None:
    operation = NORM_OPERATIONS[name]
    inputs = inputs_of(name, (2, 3, n) if operation.rank == 3 else (5, n), dtype, device)
    made = forward(name, inputs)
    outputs = (made.y, made.total)
    for output, reference in zip(outputs, operation.exact(inputs), strict=False):
        assert_close(output, reference, operation)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(5, 128), (3, 1001), (4, 3, 2, 2)], ids=str)
def test_weight_norm(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    operation = NORM_OPERATIONS["weight_norm"]
    inputs = inputs_of("weight_norm", shape, dtype, device)
    made = row_forward(inputs["v"].flatten(1), "l2", weight=inputs["g"], save=True)
    (reference,) = operation.exact(inputs)
    assert_close(made.y, reference.flatten(1), operation)
    norms = inputs["v"].double().flatten(1).norm(dim=1)
    assert made.rstd is not None
    torch.testing.assert_close(made.rstd.double(), 1 / norms, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["scale", "shift", "bias"])
def test_a_row_of_a_weight_has_no_condition(name: str) -> None:
    options: dict[str, Any] = {name: torch.ones(1, 1, 8)}
    with pytest.raises(LaunchError, match=f"'l2' divides .*; {name} given as well; .*'rms'"):
        row_forward(torch.ones(2, 3, 8), "l2", **options)


def test_a_row_is_scaled_by_a_weight_or_a_condition() -> None:
    with pytest.raises(LaunchError, match="both were given"):
        row_forward(torch.ones(2, 8), "rms", weight=torch.ones(8), scale=torch.ones(1, 2, 8))


@pytest.mark.parametrize("affine", ["weight_bias", "weight", "one_plus_weight", "none"])
def test_affine_options(affine: Any, device: torch.device) -> None:
    operation = NORM_OPERATIONS["layer_norm"]
    inputs = operation.inputs(NormProblem((3, 128), torch.float16, affine, device=device))
    assert_close(forward("layer_norm", inputs).y, operation.exact(inputs)[0], operation)


@pytest.mark.parametrize("n", [128, 1001])
def test_a_weight_may_have_another_dtype(n: int, device: torch.device) -> None:
    operation = NORM_OPERATIONS["layer_norm"]
    inputs = inputs_of("layer_norm", (3, n), torch.bfloat16, device)
    inputs["weight"], inputs["bias"] = (inputs[name].float() for name in ("weight", "bias"))
    assert_close(forward("layer_norm", inputs).y, operation.exact(inputs)[0], operation)


@pytest.mark.parametrize("name", STATISTICS)
def test_a_bias_needs_no_weight(name: str, device: torch.device) -> None:
    inputs = inputs_of("layer_norm", (3, 128), torch.float16, device)
    made = row_forward(inputs["x"], STATISTICS[name], inputs["eps"], bias=inputs["bias"])
    operation = NORM_OPERATIONS[name]
    assert_close(made.y, operation.exact({**inputs, "weight": None})[0], operation)


def test_holdings_do_not_depend_on_the_number_of_rows(device: torch.device) -> None:
    for n in (64, 768, 4096):
        x = torch.randn(7, n, device=device)
        whole = row_forward(x, "layer", 1e-5, save=True)
        for rows in (1, 3):
            part = row_forward(x[2 : 2 + rows].clone(), "layer", 1e-5, save=True)
            for name in ("y", "offset", "rstd"):
                assert torch.equal(getattr(part, name), getattr(whole, name)[2 : 2 + rows])
        again = row_forward(x, "layer", 1e-5)
        assert again.y is not None
        assert whole.y is not None
        assert torch.equal(again.y, whole.y)


def test_empty_batches_give_empty_outputs_without_a_launch() -> None:
    # Outside of the emulator a launch would raise.
    made = row_forward(torch.empty(0, 3, 8), "layer", 1e-5, save=True)
    assert made.y is not None
    assert made.rstd is not None
    assert made.y.shape == (0, 3, 8)
    assert made.rstd.shape == (0,)


def test_the_emulated_architectures_agree(device: torch.device) -> None:
    if device.type == "cuda":
        pytest.skip(f"one architecture is there, {architecture_of(device)}")
    x = torch.randn(2, 66_000)
    y = row_forward(x, "rms", 1e-6).y
    with emulating(SM_80):
        other = row_forward(x, "rms", 1e-6).y
    assert holding(66_000, 4, SM_80).slices > 1
    torch.testing.assert_close(y, other, rtol=1e-6, atol=1e-6)
