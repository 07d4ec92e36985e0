"""Axes: which axes of a tensor are kept, summed over, or rows of blocks."""

from __future__ import annotations

import pytest

from qbench_suite import Axes, ModeError


def test_weights_keep_output_channels_and_are_summed_over_inputs() -> None:
    for rank in (2, 3, 4, 5):
        assert Axes.weight(rank) == Axes(channel=0, reduction=1, rows=0, tokens=(0,))


def test_a_vector_of_weights_is_summed_over_and_a_scalar_has_no_axis() -> None:
    assert Axes.weight(1) == Axes(channel=None, reduction=0, rows=None, tokens=())
    assert Axes.weight(0) == Axes(channel=None, reduction=None, rows=None, tokens=())


def test_features_lie_last_but_second_in_images() -> None:
    assert Axes.features(0) == Axes(None, None, None, ())
    assert Axes.features(1) == Axes(channel=None, reduction=0, rows=None, tokens=())
    assert Axes.features(2) == Axes(channel=1, reduction=1, rows=0, tokens=(0,))
    assert Axes.features(3) == Axes(channel=2, reduction=2, rows=1, tokens=(0, 1))
    assert Axes.features(4) == Axes(channel=1, reduction=1, rows=3, tokens=(0, 2, 3))


def test_the_feature_axis_may_be_given_from_either_end() -> None:
    assert Axes.features(4, -1) == Axes.features(4, 3)
    assert Axes.features(4, 3).tokens == (0, 1, 2)


@pytest.mark.parametrize("axis", [2, -3])
def test_an_axis_the_tensor_has_not_is_refused(axis: int) -> None:
    with pytest.raises(ModeError, match=rf"got axis {axis} of a tensor of rank 2.* -2 … 1"):
        Axes.features(2, axis)
