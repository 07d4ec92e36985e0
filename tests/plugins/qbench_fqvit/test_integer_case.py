"""A whole integer case as a run measures it: the zoo's transformer by the method that ships."""

from __future__ import annotations

import pytest

from qbench_suite import default_manager
from qbench_suite.engine import Engine, IntegerCase, Settings
from qbench_suite.results import IntegerRow, IntegerStageRow
from qbench_suite.timing import RoundTimer


@pytest.fixture(scope="module")
def row() -> IntegerRow:
    """``vit`` on 200 held-out digits in integers."""
    engine = Engine(default_manager(), Settings(images=200, compiled_twin=False))
    found = engine.run(IntegerCase("vit", "fqvit.log8", "int8"), RoundTimer(rounds=2, warmup=1))
    assert isinstance(found, IntegerRow)
    return found


def test_all_blocks_are_in_integers_and_proven_so(row: IntegerRow) -> None:
    assert row.outcome == "passed", row.reason
    assert (row.blocks, row.refused_blocks) == (4, 0)
    assert row.integer_only is True, row.audits
    assert (row.float_operations, row.float_instructions) == (0, 0)
    assert row.audited_operations is not None
    assert row.audited_operations > 0


def test_accuracy_is_within_a_point_of_the_float_model(row: IntegerRow) -> None:
    assert row.images == 200
    assert row.top1_drop is not None
    assert row.top1_drop <= 1.0
    assert row.agreement is not None
    assert row.agreement >= 99.0
    assert row.sqnr_db is not None
    assert row.sqnr_db > 25


def test_every_step_of_every_block_is_compared(row: IntegerRow) -> None:
    stages = [d for d in row.details if isinstance(d, IntegerStageRow)]
    blocks = list(dict.fromkeys(stage.block for stage in stages))
    assert blocks == [f"blocks.{place}" for place in range(4)]
    for block in blocks:
        own = [stage for stage in stages if stage.block == block]
        assert own[-1].stage == "branch"
        assert len(own) > 8
        assert all(stage.sqnr_db is not None and stage.sqnr_db > 15 for stage in own)


def test_state_is_smaller_and_latencies_are_there(row: IntegerRow) -> None:
    assert row.state_bytes is not None
    assert row.fp32_state_bytes is not None
    assert row.state_bytes < row.fp32_state_bytes / 3
    for column in (row.latency_ms, row.block_fp32_ms, row.model_ms, row.model_speedup):
        assert column is not None
        assert column > 0
