"""Races of shared memory are found whatever values they gave, and right kernels are let alone."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from qbench_suite import KernelError
from qbench_suite.gpu import SM_90, CudaSource, emulating, source_lines
from qbench_suite.gpu.emulator import prebuild
from qbench_suite.gpu.toolkit import headers
from qbench_suite.native.compiler import find_compiler

pytestmark = pytest.mark.skipif(
    find_compiler() is None or headers() is None, reason="no C++ compiler, or no CUDA headers"
)

SOURCE = CudaSource(Path(__file__).with_name("races.cu"))
KERNELS = (
    "two_sums", "before", "rounds", "warps", "narrow", "counted", "ring", "copied", "structs",
    "global", "last_block",
)  # fmt: skip


class Arguments(ctypes.Structure):
    """As in races.cu."""

    _fields_ = (("out", ctypes.c_void_p), ("choice", ctypes.c_int))


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    with emulating(SM_90, races=True):
        prebuild((SOURCE.function(name) for name in KERNELS), SM_90)


@pytest.fixture
def looking() -> Iterator[None]:
    with emulating(SM_90, races=True):
        yield


def run(kernel: str, choice: int = 0, blocks: int = 2) -> torch.Tensor:
    """What blocks of 64 threads write, of a cluster in ``ring`` and ``last_block``."""
    out = torch.zeros(128)
    plan = SOURCE.function(kernel).plan(
        grid=(blocks, 1, 1),
        block=(64, 1, 1),
        cluster=2 if kernel in ("ring", "last_block") else 1,
        shared_bytes=1024,
        device=out.device,
    )
    plan(Arguments(out.data_ptr(), choice))
    return out


RIGHT = {
    "a block's sums with scratch of their own": ("two_sums", 0),
    "scratch used again after a barrier": ("two_sums", 1),
    "a barrier": ("before", 0),
    "a barrier of the warp": ("before", 5),
    "two buffers in turn": ("rounds", 0),
    "a warp's own memory": ("warps", 0),
    "neighbouring bytes": ("narrow", 0),
    "atomics": ("counted", 0),
    "exchange in a cluster": ("ring", 0),
    "asynchronous copies": ("copied", 0),
    "structs": ("structs", 0),
    "global memory after a barrier": ("global", 0),
    "global memory of each thread": ("global", 2),
    "atomics on global memory": ("global", 3),
    "blocks of a cluster on global memory": ("last_block", 0),
}


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.usefixtures("looking")
def test_what_barriers_order_is_no_race(name: str) -> None:
    run(*RIGHT[name])


WARP, BLOCK, CLUSTER = r"put __syncwarp\(\)", r"put __syncthreads\(\)", r"put qb::cluster_sync\(\)"
DYNAMIC = "byte 0 of the dynamic shared memory of block"
STATIC = "byte 0 of a static array of 16 in the shared memory"
#: Kernel and choice; what is said of the accesses, and the remedy.
WRONG = {
    "scratch used again at once": ("two_sums", 2, rf"writes {STATIC}.* read at", BLOCK),
    "no barrier": ("before", 1, rf"reads {DYNAMIC}.* wrote at", WARP),
    "no barrier of the warp": ("before", 2, rf"reads {DYNAMIC}.* wrote at", WARP),
    "a shuffle in its place": ("before", 3, rf"reads {DYNAMIC}.* wrote at", WARP),
    "a barrier of some lanes": ("before", 4, r"thread \(16,0,0\) .* byte 60 .*\(15,0,0\)", WARP),
    "one buffer": ("rounds", 1, "writes byte 4 .* read at", WARP),
    "a byte of the neighbour": ("narrow", 1, "writes byte 1 .* wrote at", WARP),
    "an early read": ("counted", 1, "atomically updates byte 0 .* read at", WARP),
    "an addition without atomics": ("counted", 2, "reads byte 0 .* atomically updated at", WARP),
    "a barrier of the block alone": ("ring", 1, r"byte 128 .* \(32,0,0\) of block \(1,0,0\)", CLUSTER),
    "a value over another": ("ring", 2, "reads .* wrote at", CLUSTER),
    "an arrival alone": ("ring", 3, "writes .* read at", CLUSTER),
    "a block that has not started": (
        "ring", 4, r"uses byte 0 .* of block \(1,0,0\) at .*, which may not have started", CLUSTER,
    ),
    "a barrier before the copy": ("copied", 1, "writes .* read at", BLOCK),
    "a copy over what is read": ("copied", 2, "reads .* wrote at", BLOCK),
    "global memory at once": ("global", 1, "writes global memory at .* read at", WARP),
    "structs without a barrier": ("structs", 1, "writes byte 640 .* read at", BLOCK),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.usefixtures("looking")
def test_a_race_is_reported_with_its_remedy(name: str) -> None:
    kernel, choice, accesses, remedy = WRONG[name]
    with pytest.raises(KernelError, match=f"{kernel} of races.cu .*a race: .*{accesses}.*{remedy}"):
        run(kernel, choice)
    run(kernel)  # and what comes next is none the worse


def line(text: str) -> int:
    (found,) = (n for n, each in enumerate(SOURCE.path.read_text().splitlines(), 1) if text in each)
    return found


@pytest.mark.usefixtures("looking")
def test_both_lines_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = line("shared[me - 1]"), line("shared[me] = me;")
    with pytest.raises(KernelError, match=rf"races.cu:{read}, which .* races.cu:{write},"):
        run("before", 1)
    monkeypatch.setattr(source_lines.shutil, "which", lambda _: None)
    with pytest.raises(KernelError, match=r" at \{0x[0-9a-f]+\}, which"):
        run("before", 1)


def test_a_race_is_found_where_the_values_are_right() -> None:
    with emulating(SM_90):
        assert torch.equal(run("before", 1, blocks=1), run("before", 0, blocks=1))
        assert torch.equal(run("counted", 2), run("counted", 0))
    with emulating(SM_90, races=True):
        for kernel, choice in (("before", 1), ("counted", 2)):
            with pytest.raises(KernelError, match="a race"):
                run(kernel, choice, blocks=1)


def test_races_are_looked_for_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    out = torch.zeros(128)
    with emulating(SM_90):
        plan = SOURCE.function("rounds").plan(
            grid=(1, 1, 1), block=(64, 1, 1), shared_bytes=1024, device=out.device
        )
        plan(Arguments(out.data_ptr(), 1))
    monkeypatch.setenv("QBENCH_EMULATOR_RACES", "1")
    with emulating(SM_90, races=False):
        plan(Arguments(out.data_ptr(), 1))
    with emulating(SM_90), pytest.raises(KernelError, match="a race"):
        plan(Arguments(out.data_ptr(), 1))


def test_only_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    with (
        emulating(SM_90, races=True),
        pytest.raises(KernelError, match="this is darwin; leave out"),
    ):
        prebuild([SOURCE.function("two_sums ")], SM_90)
