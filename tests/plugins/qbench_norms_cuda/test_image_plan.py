"""How images are laid out and spread over blocks."""

from __future__ import annotations

import math

import pytest
import torch

from qbench_norms_cuda.image_plan import (
    THREADS,
    Images,
    laid_out,
    laid_out_as,
    resident_plan,
    sums_plan,
    widest,
)
from qbench_suite import SM_80, SM_90, SM_120


def test_images_are_taken_as_they_lie() -> None:
    x = torch.empty(2, 3, 4, 5)
    last = x.to(memory_format=torch.channels_last)
    for given, channels_last in ((x, False), (last, True)):
        taken, shape = laid_out(given)
        assert taken is given
        assert shape == Images(2, 3, 20, channels_last)
    assert laid_out(torch.empty(6, 3))[1] == Images(6, 3, 1, True)
    copied, shape = laid_out(x.transpose(2, 3))
    assert copied.is_contiguous()
    assert shape == Images(2, 3, 20, False)
    assert laid_out(last)[1].over_images == Images(1, 3, 40, True)
    assert laid_out(x)[1].over_images == Images(2, 3, 20, False)


def test_gradients_are_laid_out_like_their_images() -> None:
    last = torch.empty(2, 3, 4, 5).to(memory_format=torch.channels_last)
    dy = torch.arange(120.0).view(2, 3, 4, 5)
    made = laid_out_as(last, dy)
    assert made.stride() == last.stride()
    assert torch.equal(made, dy)
    assert laid_out_as(dy, made).stride() == dy.stride()
    assert laid_out_as(last, made) is made


@pytest.mark.parametrize("over_images", [True, False])
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("element_bytes", [2, 4])
@pytest.mark.parametrize("positions", [1, 7, 49, 196, 3136, 50176, 3 << 30])
@pytest.mark.parametrize(
    ("channels", "group"), [(3, 1), (30, 5), (320, 10), (2048, 64), (4096, 4096)]
)
def test_blocks_cover_every_element_once(
    channels: int,
    group: int,
    positions: int,
    element_bytes: int,
    channels_last: bool,
    over_images: bool,
) -> None:
    group = 1 if over_images else group
    vector = 16 // element_bytes
    plan = sums_plan(
        Images(2, channels, positions, channels_last), group, over_images, element_bytes
    )
    assert 1 <= plan.lanes <= THREADS
    assert plan.unit % group == 0 or plan.units == 1
    assert (plan.units - 1) * plan.unit < channels <= plan.units * plan.unit
    assert (plan.fans - 1) * plan.fan < plan.parts <= plan.fans * plan.fan
    if channels_last:
        assert plan.unit == plan.unit_tiles * plan.lanes * vector
        assert (plan.parts - 1) * plan.width < positions <= plan.parts * plan.width
        assert plan.width // (THREADS // plan.lanes) <= 64
    else:
        vectors = math.ceil(positions / vector)
        assert plan.width <= plan.lanes * 4
        assert plan.parts * plan.rounds * plan.width >= vectors
        assert plan.unit_tiles * (THREADS // plan.lanes) >= plan.unit


def test_a_plan_of_images_by_themselves_does_not_depend_on_their_number() -> None:
    for channels_last in (True, False):
        plans = {
            sums_plan(Images(n, 64, 3136, channels_last), 2, False, 2) for n in (1, 2, 7, 1000)
        }
        assert len(plans) == 1


def test_a_group_takes_the_smallest_cluster_whose_blocks_leave_room_for_others() -> None:
    group = 8 * 224 * 224
    half = resident_plan(group, 2, SM_90)
    whole = resident_plan(group, 4, SM_90)
    assert half is not None
    assert whole is not None
    assert (half.cluster, half.threads) == (8, 1024)
    assert half.shared_bytes <= SM_90.shared_bytes // 2
    assert whole.cluster == 8
    assert whole.shared_bytes <= SM_90.shared_bytes
    several = resident_plan(20_000, 4, SM_90)
    assert several is not None
    assert (several.cluster, several.threads) == (4, 512)
    small = resident_plan(64, 4, SM_80)
    assert small is not None
    assert (small.cluster, small.threads) == (1, 32)
    assert resident_plan(group, 2, SM_80) is None
    assert resident_plan(group, 4, SM_120) is None


def test_an_access_is_as_wide_as_length_and_addresses_allow() -> None:
    x = torch.empty(64, dtype=torch.float16)
    assert [widest(n, x) for n in (64, 4, 6, 35)] == [8, 4, 2, 1]
    assert [widest(64, x, x[k:]) for k in (8, 4, 2, 1)] == [8, 4, 2, 1]
    assert widest(64, x.float()) == 4
    assert widest(64, x, x[2:]) == 2
