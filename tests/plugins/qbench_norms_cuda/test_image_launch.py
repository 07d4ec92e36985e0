"""One kernel that sums and applies unit after unit, or two: the same bits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qbench_norms_cuda import image_launch
from qbench_norms_cuda.image_launch import ImageNorm


def outputs(norm: str, group: int, x: Tensor, dy: Tensor) -> tuple[list[Tensor], ImageNorm]:
    """y, statistics, dx, dweight and dbias, and the backward that made the last three."""
    weight, bias = torch.linspace(-1, 2, 2 * x.shape[1], device=x.device).view(2, -1)
    forward = ImageNorm.of(norm, x, group)
    sets = x.shape[1] if norm == "batch_norm" else x.shape[0] * x.shape[1] // group
    y, statistics = torch.empty_like(x), x.new_empty((sets, 4), dtype=torch.float32)
    forward.fill(y, weight=weight, bias=bias, statistics=statistics, eps=1e-5)
    forward.run()
    backward = ImageNorm.of(norm, x, group, dy)
    dx, (dweight, dbias) = torch.empty_like(x), x.new_empty(2, x.shape[1])
    given = {"weight": weight, "statistics": statistics, "dweight": dweight, "dbias": dbias}
    backward.fill(dx, **given)
    backward.run()
    for call in (forward, backward):
        assert not call.memory[1].any(), "counters end as zeros"
    return [y, statistics, dx, dweight, dbias], backward


@pytest.mark.parametrize("ahead", [1, 3, 10_000])
@pytest.mark.parametrize(
    ("norm", "group", "shape"),
    [
        ("batch_norm", 1, (3, 6, 40, 40)),
        ("batch_norm", 1, (2, 3, 68, 68)),
        ("group_norm", 4, (2, 8, 40, 40)),
        ("group_norm", 2, (3, 32, 8, 8)),
    ],
)
def test_one_kernel_and_two_give_the_same_bits(
    norm: str,
    group: int,
    shape: tuple[int, ...],
    ahead: int,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, dy = torch.randn(2, *shape, device=device)
    monkeypatch.setattr(image_launch, "_AHEAD", ahead)
    fused, call = outputs(norm, group, x, dy)
    assert call.fused
    assert 1 <= call.args.lag <= call.units
    assert ahead > 1 or call.args.lag == 1
    monkeypatch.setattr(ImageNorm, "fused", False)
    for one, two in zip(fused, outputs(norm, group, x, dy)[0], strict=True):
        assert torch.equal(one, two)


def test_what_is_fused() -> None:
    def fused(shape: tuple[int, ...], norm: str = "group_norm", *, backward: bool = False) -> bool:
        x = torch.empty(shape, device="meta")
        return ImageNorm(norm, x, image_launch.laid_out(x)[1], 1, x if backward else None).fused

    assert fused((2, 6, 8, 8))
    assert not fused((2, 6, 5, 7))  # planes begin within a vector
    assert not fused((2, 6))  # columns
    assert not fused((4096, 64, 8, 8), backward=True)  # too much for the block that is last
    assert fused((4096, 64, 8, 8), "batch_norm", backward=True)
