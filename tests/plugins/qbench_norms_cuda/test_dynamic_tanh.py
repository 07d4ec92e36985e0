"""Dynamic tanh: exact to rounding in every layout, deterministic, and compiled without a spill."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qbench_norms_cuda.dynamic_tanh import (
    SOURCE,
    TanhGradients,
    dynamic_tanh,
    dynamic_tanh_backward,
    tiling,
)
from qbench_suite import (
    NORM_OPERATIONS,
    SM_80,
    SM_90,
    SM_100,
    Architecture,
    NormProblem,
    emulating,
    guarded,
    inspect_function,
    ulp_errors,
)

FORWARD = NORM_OPERATIONS["dynamic_tanh"]
BACKWARD = NORM_OPERATIONS["dynamic_tanh_backward"]
ALL = ("dx", "dalpha", "dweight", "dbias")
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)


def gradients(inputs: dict[str, Tensor], needs: tuple[str, ...] = ALL) -> TanhGradients:
    given = (inputs[name] for name in ("dy", "x", "alpha", "weight"))
    return dynamic_tanh_backward(*given, needs)


def result(inputs: dict[str, Tensor]) -> Tensor:
    return dynamic_tanh(*(inputs[name] for name in ("x", "alpha", "weight", "bias")))


@pytest.mark.parametrize(
    "shape", [(4, 7), (9, 32), (70, 768), (3, 1001), (260, 16), (2, 5000)], ids=str
)
@DTYPES
def test_errors_are_those_of_rounding(
    shape: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> None:
    inputs = BACKWARD.inputs(NormProblem(shape, dtype, device=device))
    name = str(dtype).removeprefix("torch.")
    errors = ulp_errors(result(inputs), FORWARD.exact(inputs)[0])
    assert errors.max_ulp <= FORWARD.tolerance_ulps[name]
    made = gradients(inputs)
    for which, reference in zip(ALL, BACKWARD.exact(inputs), strict=True):
        errors = ulp_errors(getattr(made, which), reference)
        assert errors.nonfinite == 0
        assert errors.max_ulp <= BACKWARD.tolerance_ulps[name], which


def test_values_without_a_finite_result(device: torch.device) -> None:
    x = torch.tensor(
        [[0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1e38, 1e-40, 2.0]], device=device
    )
    alpha, weight = torch.tensor([2.0], device=device), torch.full((8,), 3.0, device=device)
    y = dynamic_tanh(x, alpha, weight, None)
    assert torch.equal(y.isnan(), x.isnan())
    assert y[0, 2] == 3.0
    assert y[0, 3] == -3.0
    assert y[0, 5] == 3.0
    assert torch.signbit(y[0, :2]).tolist() == [False, True]
    made = dynamic_tanh_backward(torch.ones_like(x), x, alpha, weight, ALL)
    assert made.dx is not None
    assert made.dx[0, 2:4].tolist() == [0.0, 0.0]
    assert made.dweight is not None
    assert made.dweight.isnan().tolist() == x[0].isnan().tolist()
    assert made.dalpha is not None
    assert made.dalpha.isnan()  # 0 · Inf, as in the formula


@DTYPES
def test_rows_apart_and_out_of_line(dtype: torch.dtype, device: torch.device) -> None:
    """Rows cut out of wider ones, from an odd address on, have the bits of contiguous ones."""
    inputs = BACKWARD.inputs(NormProblem((20, 512), dtype, device=device))
    expected, sums = result(inputs), gradients(inputs)
    for wide, first in ((576, 8), (513, 1), (600, 3)):
        moved = dict(inputs)
        for name in ("x", "dy"):
            room = torch.full((20, wide), torch.nan, dtype=dtype, device=device)
            moved[name] = room[:, first : first + 512].copy_(inputs[name])
            assert not moved[name].is_contiguous()
        assert torch.equal(result(moved), expected)
        made = gradients(moved)
        for name in ALL:
            assert torch.equal(getattr(made, name), getattr(sums, name))
    misaligned = torch.empty(513, dtype=dtype, device=device)[1:].copy_(inputs["weight"])
    assert torch.equal(result({**inputs, "weight": misaligned}), expected)


def test_rows_beyond_two_to_the_31(device: torch.device) -> None:
    """Memory that is not touched takes no room on the CPU; a GPU has it."""
    inputs = BACKWARD.inputs(NormProblem((2, 64), torch.float16, device=device))
    far = dict(inputs)
    for name in ("x", "dy"):
        room = torch.empty(2**31 + 128, dtype=torch.float16, device=device)
        far[name] = room.as_strided((2, 64), (2**31 + 8, 1)).copy_(inputs[name])
    assert torch.equal(result(far), result(inputs))
    made, expected = gradients(far), gradients(inputs)
    for name in ALL:
        assert torch.equal(getattr(made, name), getattr(expected, name))


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("columns", [7, 33, 1001])
@DTYPES
def test_nothing_outside_of_tensors_is_read(dtype: torch.dtype, columns: int, before: bool) -> None:
    inputs = BACKWARD.inputs(NormProblem((5, columns), dtype))
    fenced = {name: guarded(tensor, before=before) for name, tensor in inputs.items()}
    with emulating(SM_90):
        assert torch.equal(result(fenced), result(inputs))
        made, expected = gradients(fenced), gradients(inputs)
    for name in ALL:
        assert torch.equal(getattr(made, name), getattr(expected, name))


def test_a_weight_of_another_dtype(device: torch.device) -> None:
    inputs = BACKWARD.inputs(NormProblem((6, 96), torch.bfloat16, device=device))
    float32 = {name: inputs[name].float() for name in ("alpha", "weight", "bias")}
    mixed = {**inputs, **float32}
    assert torch.equal(result(mixed), result(inputs))
    made, own = gradients(mixed), gradients(inputs)
    for name in ("dalpha", "dweight", "dbias"):
        total: Tensor = getattr(made, name)
        assert total.dtype == torch.float32
        assert torch.equal(total.bfloat16(), getattr(own, name))


def test_the_same_bits_in_every_run_and_only_what_is_asked_for(device: torch.device) -> None:
    inputs = BACKWARD.inputs(NormProblem((70, 768), device=device))
    first = gradients(inputs)
    for name in ALL:
        alone = gradients(inputs, (name,))
        assert torch.equal(getattr(alone, name), getattr(first, name))
        assert [other for other in ALL if getattr(alone, other) is not None] == [name]


def test_a_row_has_the_same_bits_in_any_batch(device: torch.device) -> None:
    inputs = FORWARD.inputs(NormProblem((7, 300), device=device))
    whole = result(inputs)
    for rows in (1, 3):
        assert torch.equal(result({**inputs, "x": inputs["x"][:rows]}), whole[:rows])


@pytest.mark.parametrize("architecture", [SM_80, SM_100], ids=str)
def test_other_architectures(architecture: Architecture) -> None:
    inputs = BACKWARD.inputs(NormProblem((9, 300)))
    with emulating(SM_90):
        expected = result(inputs)
    with emulating(architecture):
        assert torch.equal(result(inputs), expected)
        assert gradients(inputs).dalpha is not None


@pytest.mark.parametrize("columns", [1, 7, 96, 768, 1001, 4096, 65536])
@pytest.mark.parametrize("rows", [1, 9, 2048])
def test_tiles_cover_all_and_waste_little(rows: int, columns: int) -> None:
    tiles = tiling(rows, columns, 2, 528)
    vectors = -(-columns // 8)
    assert vectors <= tiles.across * tiles.blocks_across < vectors + max(32, vectors)
    assert 1 <= tiles.blocks_down <= max(1, -(-rows * tiles.across // 256))
    assert tiles.blocks_across * tiles.blocks_down <= max(528, tiles.blocks_across)


#: Registers of a thread at most; so many blocks of 256 threads fit a multiprocessor.
REGISTERS = {"dynamic_tanh": 64, "dynamic_tanh_backward": 128}


@pytest.mark.parametrize("architecture", [SM_80, SM_90, SM_100], ids=str)
@pytest.mark.parametrize(
    "types", ["float, float, 4", "__half, __half, 8", "__nv_bfloat16, float, 8"]
)
@pytest.mark.parametrize("kernel", REGISTERS)
def test_what_is_compiled(kernel: str, types: str, architecture: Architecture) -> None:
    resources = inspect_function(SOURCE.function(f"{kernel}<{types}>"), architecture)
    assert resources.spill_bytes == resources.stack_bytes == 0
    assert resources.registers <= REGISTERS[kernel]
    assert resources.wide_loads >= 2
    assert resources.wide_stores >= 2
