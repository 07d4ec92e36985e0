"""Halving: what is counted when memory runs out, and what is said."""

from __future__ import annotations

import warnings

import pytest
import torch

from qbench_suite.engine.halving import Halving, is_out_of_memory, out_of_memory
from qbench_suite.errors import ConversionError


@pytest.fixture
def halving() -> Halving:
    return Halving(torch.device("cpu"))


def hungry(most: int, images: int) -> int:
    if images > most:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return images


def test_a_whole_is_begun_anew_with_half(halving: Halving) -> None:
    with pytest.warns(RuntimeWarning, match="memory ran out") as caught:
        assert halving.run(20, lambda images: hungry(6, images), "Work") == 5
    assert len(caught) == 2, "20, then 10"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert halving.run(20, lambda images: hungry(6, images), "More work") == 5


@pytest.mark.parametrize("most", [1, 3, 7, 100])
def test_parts_hold_every_image_once(halving: Halving, most: int) -> None:
    def part(where: slice) -> list[int]:
        found = list(range(23))[where]
        hungry(most, len(found))
        return found

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        parts = list(halving.over(23, 8, part, "Work"))
    assert [image for found in parts for image in found] == list(range(23))
    assert max(map(len, parts)) <= min(most, 8)


def test_one_image_has_a_sentence_of_its_own(halving: Halving) -> None:
    message = (
        "Calibration needs memory for one image at least; out of memory at one image: CUDA out"
    )
    with (
        pytest.warns(RuntimeWarning, match="memory ran out"),
        pytest.raises(ConversionError, match=message) as caught,
    ):
        halving.run(2, lambda images: hungry(0, images), "Calibration")
    assert "smaller model or image size, or another device" in str(caught.value)
    assert not is_out_of_memory(caught.value), "nobody halves again for it"


def test_other_errors_are_none_of_memory(halving: Halving) -> None:
    wrapped = ConversionError("A site raised.")
    wrapped.__cause__ = RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")
    assert is_out_of_memory(wrapped)
    assert "9 bytes" in str(out_of_memory("m", wrapped))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(ValueError("can't allocate memory"))
    with pytest.raises(ZeroDivisionError):
        halving.run(4, lambda images: images // 0, "Work")
    assert halving.limit is None
