"""Gradients of norms of rows: where rows lie in memory, and what must agree to the last bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qbench_norms_cuda.row_backward import RowGradients, row_backward
from qbench_suite import SM_90, emulating
from qbench_suite.gpu.guarded import guarded

CPU = torch.device("cpu")
HALF, BFLOAT = torch.float16, torch.bfloat16
ALL = ("dx", "dweight", "dbias")


def drawn(*shape: int, device: torch.device, seed: int = 0) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed + shape[-1]))
    return values.to(device, BFLOAT)


def saved(x: Tensor) -> tuple[Tensor, Tensor]:
    """Offset and rstd of a LayerNorm of the rows of ``x``."""
    x = x.double().flatten(0, -2)
    mean = x.mean(-1)
    rstd = ((x - mean[:, None]).square().mean(-1) + 1e-5).rsqrt()
    return (mean - x[:, 0]).float(), rstd.float()


def gradients(
    dy: Tensor, x: Tensor, weight: Tensor | None, dtotal: Tensor | None = None
) -> RowGradients:
    offset, rstd = saved(x)
    return row_backward(dy, x, "layer", offset, rstd, weight=weight, dtotal=dtotal, needs=ALL)


def assert_equal(made: RowGradients, expected: RowGradients) -> None:
    for name in ALL:
        first, second = getattr(made, name), getattr(expected, name)
        assert torch.equal(first, second), name


def test_rows_that_are_apart(device: torch.device) -> None:
    wide = drawn(9, 576, device=device)
    dy, dtotal = (drawn(9, 576, device=device, seed=k)[:, 64:] for k in (1, 2))
    weight = drawn(512, device=device)
    expected = gradients(dy.contiguous(), wide[:, :512].contiguous(), weight, dtotal.contiguous())
    assert_equal(gradients(dy, wide[:, :512], weight, dtotal), expected)


def test_an_expanded_gradient_as_of_a_sum(device: torch.device) -> None:
    x, weight = drawn(9, 768, device=device), drawn(768, device=device)
    one = torch.ones((), dtype=BFLOAT, device=device)
    assert_equal(gradients(one.expand(9, 768), x, weight), gradients(torch.ones_like(x), x, weight))


def test_a_gradient_in_another_memory_order(device: torch.device) -> None:
    x, weight = drawn(3, 5, 768, device=device), drawn(768, device=device)
    dy = drawn(768, 3, 5, device=device).permute(1, 2, 0)
    assert_equal(gradients(dy, x, weight), gradients(dy.contiguous(), x, weight))


@pytest.mark.parametrize("columns", [1000, 4096])
@pytest.mark.parametrize("shift", [1, 2, 4])
def test_alignment_changes_no_bit(device: torch.device, columns: int, shift: int) -> None:
    aligned = [drawn(5, columns, device=device, seed=k) for k in range(2)]
    moved = []
    for tensor in aligned:
        room = torch.empty(5 * columns + shift, dtype=BFLOAT, device=device)
        moved.append(room[shift:].view(5, columns).copy_(tensor))
    weight = drawn(columns + 1, device=device)[1:]
    assert_equal(gradients(*moved, weight), gradients(*aligned, weight.clone()))


def test_rows_more_than_two_to_the_31_elements_apart() -> None:
    # Storage of which only two pages are touched.
    apart = 2**31 + 64
    try:
        room = torch.empty(apart + 768, dtype=BFLOAT)
    except RuntimeError as error:
        pytest.skip(f"no room for {apart} elements: {error}")
    x = room.as_strided((2, 768), (apart, 1)).copy_(drawn(2, 768, device=CPU))
    dy, weight = drawn(2, 768, device=CPU, seed=1), drawn(768, device=CPU)
    with emulating(SM_90):
        assert_equal(gradients(dy, x, weight), gradients(dy, x.contiguous(), weight))


@pytest.mark.parametrize("before", [False, True], ids=["behind", "before"])
@pytest.mark.parametrize("columns", [7, 1001, 20_000])
def test_nothing_is_touched_outside_of_rows(columns: int, before: bool) -> None:
    dy, x, dtotal = (drawn(5, columns, device=CPU, seed=k) for k in range(3))
    weight = drawn(columns, device=CPU)
    with emulating(SM_90):
        expected = gradients(dy, x, weight, dtotal)
        inputs = [guarded(tensor, before=before) for tensor in (dy, x, weight, dtotal)]
        assert_equal(gradients(*inputs), expected)


@pytest.mark.parametrize("columns", [64, 300, 512])
def test_nothing_is_touched_outside_of_the_scales_of_tokens(columns: int) -> None:
    """Six rows are not all that a block has at once: some of its threads have none."""
    dy, x, scale = (drawn(2, 3, columns, device=CPU, seed=k).float() for k in range(3))
    offset, rstd = saved(x)
    needs = ("dx", "dscale", "dshift")
    with emulating(SM_90):
        expected = row_backward(dy, x, "layer", offset, rstd, scale=scale, needs=needs)
        dy, x, scale = map(guarded, (dy, x, scale))
        found = row_backward(dy, x, "layer", offset, rstd, scale=scale, needs=needs)
    for name in needs:
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


@pytest.mark.parametrize("columns", [128, 1000, 20_000])
def test_a_row_is_the_same_in_any_batch(device: torch.device, columns: int) -> None:
    dy, x = (drawn(70, columns, device=device, seed=k) for k in range(2))
    weight = drawn(columns, device=device)
    alone = gradients(dy[5:6], x[5:6], weight).dx
    assert alone is not None
    for rows in (3, 7, 64):
        among = gradients(dy[5 : 5 + rows], x[5 : 5 + rows], weight).dx
        assert among is not None
        assert torch.equal(among[:1], alone)
    last = gradients(dy[:6], x[:6], weight).dx
    assert last is not None
    assert torch.equal(last[5:], alone)


@pytest.mark.parametrize("columns", [128, 1000, 70_000])
def test_runs_agree_to_the_last_bit(device: torch.device, columns: int) -> None:
    dy, x = (drawn(41, columns, device=device, seed=k) for k in range(2))
    weight = drawn(columns, device=device)
    assert_equal(gradients(dy, x, weight), gradients(dy, x, weight))
