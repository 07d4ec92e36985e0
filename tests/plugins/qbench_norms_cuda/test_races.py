"""No kernel lacks a barrier of its shared memory: every operation, every way to hold its data."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qbench_norms_cuda import images as raw
from qbench_norms_cuda import row_launches
from qbench_norms_cuda.column_sum import column_sum, partial_sums
from qbench_norms_cuda.image_launch import ImageNorm
from qbench_norms_cuda.image_plan import resident_plan
from qbench_norms_cuda.kernels import KERNELS
from qbench_norms_cuda.ops.images import batch_norm, group_norm
from qbench_norms_cuda.row_backward import row_backward
from qbench_norms_cuda.row_forward import Quantization, row_forward
from qbench_norms_cuda.row_plan import holding
from qbench_norms_cuda.row_split import split_row
from qbench_suite import (
    SM_80,
    SM_90,
    Architecture,
    CudaSource,
    KernelError,
    NormKernel,
    NormProblem,
    cuda_unavailable,
    emulating,
)

#: Shapes by the operation's layout and rank: short rows, and several blocks of images.
SHAPES = {
    ("rows", 2): (5, 300),
    ("rows", 3): (2, 3, 300),
    ("rows", 4): (1, 2, 9, 64),
    ("nchw", 4): (2, 8, 5, 7),
    ("nhwc", 4): (2, 8, 5, 7),
}
SMALL = dataclasses.replace(SM_90, shared_bytes=20_000)


@pytest.fixture(autouse=True)
def _looking() -> Iterator[None]:
    torch.manual_seed(5)
    with emulating(SM_90, races=True):
        if reason := cuda_unavailable(torch.device("cpu")):
            pytest.skip(reason)
        yield


def looking(architecture: Architecture) -> Any:
    return emulating(architecture, races=True)


@pytest.mark.parametrize("kernel", KERNELS, ids=[kernel.name for kernel in KERNELS])
def test_every_kernel_of_the_package(kernel: NormKernel) -> None:
    operation = kernel.operation
    dtype = torch.bfloat16 if operation.quantized else torch.float32
    shape = SHAPES[operation.layout, operation.rank]
    for output in kernel.prepare(operation.inputs(NormProblem(shape, dtype, seed=3)))():
        assert output.float().isfinite().all()


#: Rows of bfloat16 in a block, in a block's shared memory, in that of a cluster, and in slices.
HELD = {
    "a block": (2050, SM_90),
    "shared memory": (20_000, SM_80),
    "a cluster": (40_000, SM_90),
    "slices": (20_001, SMALL),
}


@pytest.mark.parametrize(
    "quantization", [None, Quantization("int8", "token")], ids=["floats", "codes"]
)
@pytest.mark.parametrize(("n", "architecture"), HELD.values(), ids=HELD)
def test_forwards_of_rows(
    n: int, architecture: Architecture, quantization: Quantization | None
) -> None:
    # A row of zeros makes the statistics be taken again, from enlarged values.
    x = torch.randn(2, n).bfloat16()
    x[1] = 0
    with looking(architecture):
        row_forward(x, "layer", quantization=quantization)


def test_forwards_are_held_so() -> None:
    block, shared, cluster, slices = (holding(n, 2, on) for n, on in HELD.values())
    assert block.lanes > 32
    assert block.items
    assert (shared.items, shared.cluster) == (0, 1)
    assert cluster.cluster > 1
    assert slices.slices > 1


def backward(n: int, rows: int, **inputs: Any) -> None:
    dy, x = torch.randn(2, rows, n).bfloat16()
    offset, rstd = torch.zeros(rows), torch.ones(rows)
    row_backward(dy, x, "layer", offset, rstd, needs=("dx", "dweight", "dbias"), **inputs)


@pytest.mark.parametrize(
    ("n", "architecture"),
    [(64, SM_90), (2048, SM_90), (12_288, SM_90), (16_400, SM_90), (16_400, SM_80)],
    ids=["lanes", "a block", "a long row", "a cluster", "tiles"],
)
def test_backwards_of_rows(n: int, architecture: Architecture) -> None:
    # More rows than blocks: stages of shared memory are used again.
    with looking(architecture):
        backward(n, 300 if n == 64 else 21, weight=torch.randn(n).bfloat16())


@pytest.mark.parametrize("parts", [40, 264])
def test_sums_of_partial_sums(parts: int) -> None:
    partial = partial_sums(2, 3, parts, 129, torch.device("cpu")).fill_(1)
    outputs = [torch.empty(3, 129) for _ in range(2)]
    column_sum(partial, outputs)
    assert all((output == parts).all() for output in outputs)


def test_backwards_are_split_so() -> None:
    assert split_row(16_400, 2, 2, SM_90).clustered
    assert split_row(16_400, 2, 2, SM_80).tiled
    assert split_row(2048, 2, 2, SM_90).stages > 1


def passed(y: Tensor, *leaves: Tensor) -> None:
    torch.autograd.grad(y, leaves, torch.randn_like(y))


@pytest.mark.parametrize("channels_last", [False, True])
def test_batches(channels_last: bool) -> None:
    for shape in ((3, 32, 8, 8), (1, 256, 34, 34) if channels_last else (1, 2, 70, 70)):
        order = torch.channels_last if channels_last else torch.contiguous_format
        x = torch.randn(shape).to(memory_format=order).requires_grad_()
        weight, bias = torch.randn(2, shape[1]).requires_grad_().unbind()
        passed(batch_norm(x, None, None, weight, bias, training=True), x, weight, bias)
    if channels_last:
        assert ImageNorm.of("batch_norm", x.detach(), 1).plan.fan > 1


@pytest.mark.parametrize(("positions", "cluster"), [(400, 1), (900, 2), (3900, 8)])
def test_groups_on_chip(positions: int, cluster: int) -> None:
    plan = resident_plan(16 * positions, 4, SM_90)
    assert plan is not None
    assert plan.cluster == cluster
    group_norm(torch.randn(2, 32, positions), 2)


@pytest.mark.parametrize("channels_last", [False, True])
def test_groups_over_blocks(channels_last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "resident_plan", lambda *_: None)
    order = torch.channels_last if channels_last else torch.contiguous_format
    for shape in ((2, 40, 5, 7), (1, 4, 70, 70)):
        x = torch.randn(shape).to(memory_format=order).requires_grad_()
        weight, bias = torch.randn(2, shape[1]).requires_grad_().unbind()
        passed(group_norm(x, 4, weight, bias), x, weight, bias)


def test_a_barrier_that_is_taken_away_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = row_launches.SOURCE.path
    shutil.copytree(source.parent, tmp_path / "csrc")
    changed = tmp_path / "csrc" / "moments.cuh"
    text = changed.read_text()
    assert "    __syncthreads();\n" in text
    changed.write_text(text.replace("    __syncthreads();\n", ""))
    monkeypatch.setattr(row_launches, "SOURCE", CudaSource(tmp_path / "csrc" / source.name))
    row_launches.launches.cache_clear()
    try:
        with pytest.raises(KernelError, match=r"a race: .*moments.cuh:\d+.*put __syncthreads"):
            backward(2048, 21)
    finally:
        row_launches.launches.cache_clear()
