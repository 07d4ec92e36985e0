"""Overrides of how rows are held: what they change, that results stay right, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from qbench_norms_cuda import row_kernels
from qbench_norms_cuda.row_forward import row_forward
from qbench_norms_cuda.row_plan import Holding, holding
from qbench_norms_cuda.row_tuning import VARIABLE, overrides
from qbench_suite import (
    NORM_OPERATIONS,
    SM_80,
    SM_90,
    Architecture,
    KernelError,
    NormProblem,
    emulating,
)

Tune = Callable[[object], Path]


@pytest.fixture
def tune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tune]:
    """Writes overrides, and makes them count as in a fresh process."""

    def written(content: object) -> Path:
        path = tmp_path / "tuning.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        monkeypatch.setenv(VARIABLE, str(path))
        return path

    def forget() -> None:
        overrides.cache_clear()
        holding.cache_clear()

    forget()
    monkeypatch.setattr(row_kernels, "_prepared", {})
    yield written
    forget()


def entry(first: int, last: int, size: int, **fields: object) -> dict[str, Any]:
    return {"columns": [first, last], "bytes": size, **fields}


#: Override, length of rows, dtype, architecture, how they are held then.
HELD = {
    "fewer items": (entry(1, 999, 2, items=1), 500, torch.half, SM_90, Holding(64, 1)),
    "more threads": (
        entry(1, 9999, 2, items=1, threads=64),
        512,
        torch.half,
        SM_90,
        Holding(64, 1),
    ),
    "shared memory": (
        entry(1000, 3000, 4, threads=32, cluster=1),
        3000,
        torch.float32,
        SM_90,
        Holding(512, 0, 2),
    ),
    "cluster": (
        entry(1000, 3000, 4, threads=32, slice_bytes=4096, cluster=8),
        3000,
        torch.float32,
        SM_90,
        Holding(512, 0, 1, 4),
    ),
    "no cluster there": (
        entry(1000, 3000, 4, threads=32, slice_bytes=1024, cluster=8),
        3000,
        torch.float32,
        SM_80,
        Holding(512, 0, 2),
    ),
}


@pytest.mark.parametrize(
    ("override", "n", "dtype", "architecture", "held"), HELD.values(), ids=HELD
)
def test_rows_are_held_as_told_and_right(
    override: object,
    n: int,
    dtype: torch.dtype,
    architecture: Architecture,
    held: Holding,
    tune: Tune,
) -> None:
    tune({str(architecture): [override]})
    assert holding(n, dtype.itemsize, architecture) == held
    operation = NORM_OPERATIONS["layer_norm"]
    inputs = operation.inputs(NormProblem((5, n), dtype, seed=2))
    with emulating(architecture):
        made = row_forward(
            inputs["x"], "layer", inputs["eps"], weight=inputs["weight"], bias=inputs["bias"]
        )
    assert made.y is not None
    (reference,) = operation.exact(inputs)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(made.y.double(), reference, rtol=4 * eps, atol=8 * eps)


def test_only_what_is_named_is_overridden(tune: Tune) -> None:
    before = {n: holding(n, 2, SM_90) for n in (999, 1001, 2000)}
    other = holding(1000, 2, SM_80), holding(1000, 4, SM_90)
    holding.cache_clear()
    tune({"sm_90": [entry(1000, 1000, 2, items=2), entry(1, 1000, 2, items=3, threads=32)]})
    assert holding(1000, 2, SM_90) == Holding(64, 2)
    assert holding(500, 2, SM_90) == Holding(32, 2)
    assert holding(999, 2, SM_90) != before[999]
    assert [holding(n, 2, SM_90) for n in (1001, 2000)] == [before[1001], before[2000]]
    assert (holding(1000, 2, SM_80), holding(1000, 4, SM_90)) == other


REFUSED = {
    "no JSON": ("{", "cannot be read"),
    "a list": ([], "the file of .* must be an object"),
    "an architecture": ({"hopper": []}, "an architecture of .* must be a name such as"),
    "no list": ({"sm_90": {}}, "sm_90 of .* must be a list"),
    "no object": ({"sm_90": [3]}, r"sm_90\[0\] of .* must be an object; received 3"),
    "a field": ({"sm_90": [entry(1, 2, 2, lanes=8)]}, r"sm_90\[0\] of .* at least one of items"),
    "nothing told": ({"sm_90": [entry(1, 2, 2)]}, r"sm_90\[0\] of .* at least one of items"),
    "columns": ({"sm_90": [entry(9, 2, 2, items=1)]}, r"sm_90\[0\].columns of .* \[9, 2\]"),
    "bytes": ({"sm_90": [entry(1, 2, 8, items=1)]}, r"sm_90\[0\].bytes of .* 2 or 4"),
    "items": ({"sm_80": [entry(1, 2, 2, items=5)]}, r"sm_80\[0\].items of .* 1 to 4; received 5"),
    "threads": (
        {"sm_90": [entry(1, 2, 4, items=8), entry(1, 2, 4, threads=100)]},
        r"sm_90\[1\].threads of .* 32 to 512, a multiple of 32; received 100",
    ),
    "a truth value": ({"sm_90": [entry(1, 2, 4, cluster=True)]}, r"cluster of .* received True"),
    "cluster": ({"sm_90": [entry(1, 2, 4, cluster=3)]}, "cluster of .* one of 1, 2, 4, 8"),
}


@pytest.mark.parametrize(("content", "said"), REFUSED.values(), ids=REFUSED)
def test_nonsense_is_refused_by_file_and_entry(content: object, said: str, tune: Tune) -> None:
    path = tune(content)
    with pytest.raises(KernelError, match=said) as error:
        holding(64, 2, SM_90)
    assert str(path) in str(error.value)
    assert VARIABLE in str(error.value)


def test_a_file_that_is_not_there_is_named(tune: Tune) -> None:
    tune({}).unlink()
    with pytest.raises(KernelError, match="cannot be read"):
        holding(64, 2, SM_90)
