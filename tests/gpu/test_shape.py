"""LaunchShape: what CUDA would refuse is refused before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qbench_suite.errors import LaunchError
from qbench_suite.gpu import SM_80, SM_90, SM_120, Architecture, CudaFunction, CudaSource
from qbench_suite.gpu.shape import LaunchShape

FUNCTION = CudaFunction(CudaSource(Path("a.cu")), "f<8>")


def shape(**changes: Any) -> LaunchShape:
    plain = LaunchShape((4, 1, 1), (256, 1, 1), 1, 0, False, False)
    return plain._replace(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"grid": (0, 1, 1)},
        {"grid": (2**31 - 1, 65_535, 65_535)},
        {"block": (1024, 1, 1)},
        {"block": (1, 16, 64)},
        {"shared_bytes": SM_90.shared_bytes},
        {"grid": (32, 3, 1), "cluster": 16},
    ],
    ids=str,
)
def test_what_sm_90_allows(changes: dict[str, Any]) -> None:
    shape(**changes).check(FUNCTION, SM_90)


@pytest.mark.parametrize(
    ("changes", "chip", "rule"),
    [
        ({"grid": (4, 1)}, SM_90, "counted along x, y and z"),
        ({"grid": (2**31, 1, 1)}, SM_90, "a grid has 0 to"),
        ({"grid": (1, 65_536, 1)}, SM_90, "count blocks along x"),
        ({"grid": (-1, 1, 1)}, SM_90, "a grid has 0 to"),
        ({"block": (1025, 1, 1)}, SM_90, "1 to 1024 threads"),
        ({"block": (0, 1, 1)}, SM_90, "1 to 1024 threads"),
        ({"block": (8, 8, 65)}, SM_90, "up to 64 of them along z"),
        ({"block": (64, 32, 1)}, SM_90, "1 to 1024 threads"),
        ({"shared_bytes": 166_913}, SM_80, "sm_80 has up to 166912 bytes of shared memory"),
        ({"shared_bytes": -1}, SM_80, "shared memory"),
        ({"cluster": 2}, SM_80, "a cluster of sm_80 has 1 to 1 blocks"),
        ({"cluster": 0}, SM_90, "a cluster of sm_90 has 1 to 16 blocks"),
        ({"grid": (34, 1, 1), "cluster": 17}, SM_90, "1 to 16 blocks"),
        ({"grid": (32, 1, 1), "cluster": 16}, SM_120, "1 to 8 blocks"),
        ({"grid": (6, 1, 1), "cluster": 4}, SM_90, "whole clusters along x"),
    ],
    ids=str,
)
def test_what_is_refused_says_rule_launch_and_remedy(
    changes: dict[str, Any], chip: Architecture, rule: str
) -> None:
    wanted = shape(**changes)
    with pytest.raises(LaunchError) as caught:
        wanted.check(FUNCTION, chip)
    message = str(caught.value)
    assert rule in message
    assert f"f<8> was to be launched as {wanted.grid} blocks of {wanted.block} threads" in message
    assert message.count(";") >= 2


def test_a_shape_is_said_with_all_that_is_special() -> None:
    said = str(shape(cluster=4, shared_bytes=96))
    assert (
        said
        == "as (4, 1, 1) blocks of (256, 1, 1) threads, clusters of 4, 96 bytes of shared memory"
    )


@pytest.mark.parametrize(("grid", "empty"), [((1, 1, 1), False), ((3, 0, 1), True)])
def test_a_grid_with_a_zero_is_empty(grid: tuple[int, int, int], empty: bool) -> None:
    assert shape(grid=grid).empty is empty
