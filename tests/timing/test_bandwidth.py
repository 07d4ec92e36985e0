"""The copy that bandwidth is compared with."""

from __future__ import annotations

import pytest
import torch

from qbench_suite.timing import copies, gb_per_s

CPU = torch.device("cpu")


def test_copies_move_the_bytes_between_buffers_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[torch.Tensor] = []
    ones = torch.ones

    def noting(*shape: int, **named: object) -> torch.Tensor:
        made.append(ones(*shape, **named))  # type: ignore[call-overload]
        return made[-1]

    monkeypatch.setattr(torch, "ones", noting)
    calls = copies(2_000_000, 3, CPU)
    assert [tensor.nbytes for tensor in made] == [1_000_000] * 6
    assert len({tensor.data_ptr() for tensor in made}) == 6
    for tensor in made[::2]:
        tensor.fill_(7)
    for call in calls:
        call()
    assert all((tensor == 7).all() for tensor in made)


def test_nothing_to_move_is_a_copy_too() -> None:
    (call,) = copies(0, 1, CPU)
    call()


def test_gigabytes_are_powers_of_ten() -> None:
    assert gb_per_s(3_000_000_000, 0.5) == 6.0
