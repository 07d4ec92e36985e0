"""How rows are spread: every length on every architecture, from the length alone, within what there is."""

from __future__ import annotations

import pytest

from qbench_norms_cuda.row_split import split_row
from qbench_suite import SM_75, SM_80, SM_89, SM_90, SM_100, SM_120, Architecture

ARCHITECTURES = (SM_75, SM_80, SM_89, SM_90, SM_100, SM_120)
LENGTHS = (
    *(1, 7, 8, 9, 32, 255, 256, 257, 512, 513, 768, 1000, 1001, 4096, 5120, 8192, 8193, 12_288),
    *(12_289, 16_384, 65_536, 65_537, 131_072, 4_190_000, 2**31),
)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
@pytest.mark.parametrize("tensors", [2, 3])
@pytest.mark.parametrize("itemsize", [2, 4])
def test_every_column_has_one_thread(
    itemsize: int, tensors: int, architecture: Architecture
) -> None:
    lanes = 16 // itemsize
    for columns in LENGTHS:
        split = split_row(columns, itemsize, tensors, architecture)
        # Tiles cover the row, none is empty, and the threads of a block cover a tile.
        assert (split.tiles - 1) * split.tile_columns < columns <= split.tiles * split.tile_columns
        assert split.threads * split.items * lanes >= split.tile_columns
        assert split.tile_columns % lanes == 0
        # Whole warps share a row, or rows share a warp.
        assert split.block % 32 == split.block % split.threads == 0
        assert split.threads % 32 == 0 or 32 % split.threads == 0
        assert split.threads == split.block or split.threads <= 32
        assert 2 <= split.stages <= 5
        assert split.resident * split.shared_bytes(tensors) <= architecture.shared_bytes
        assert split.resident * split.block <= 512
        assert split.tiles <= architecture.max_cluster or not split.clustered


def test_long_rows_have_a_cluster_where_there_are_clusters() -> None:
    assert split_row(12_288, 2, 2, SM_90).tiles == 1
    assert split_row(32_768, 2, 2, SM_90).clustered
    assert split_row(32_768, 2, 2, SM_80).tiled
    assert split_row(262_144, 2, 2, SM_90).tiled


@pytest.mark.parametrize("summed", [False, True])
@pytest.mark.parametrize("columns", [128, 4096, 20_000, 1_000_000])
def test_blocks_have_at_least_a_row_and_few_are_idle(columns: int, summed: bool) -> None:
    split = split_row(columns, 2, 2, SM_90)
    teams = split.block // split.threads
    for groups, rows in ((1, 1), (1, 7), (1, 2048), (1, 16_384), (3, 100), (1000, 4)):
        parts = split.parts(groups, rows, summed, SM_90)
        assert 1 <= parts <= -(-rows // teams)
        turns = -(-rows // (teams * parts))
        # No part is without a row, and no fewer parts would be as quick.
        assert (parts - 1) * teams < rows
        assert parts == 1 or -(-rows // (teams * (parts - 1))) > turns
    if not summed:
        return
    few, many = split.parts(1, 2048, True, SM_90), split.parts(1, 2048, False, SM_90)
    assert few <= many
