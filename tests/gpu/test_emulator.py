"""The emulated device: indices, barriers, warps, memory, atomics; and the mistakes it finds."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from qbench_suite import KernelError
from qbench_suite.errors import LaunchError
from qbench_suite.gpu import SM_80, SM_90, Architecture, CudaSource, emulating
from qbench_suite.gpu.emulator import prebuild
from qbench_suite.native.compiler import find_compiler

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler here")

SOURCE = CudaSource(Path(__file__).with_name("emulated.cu"))
KERNELS = (
    "indices", "half_warps", "votes", "neighbours", "unwritten", "early_exit", "mistake",
    "recursion", "cluster_ring", "atomics", "rounds", "arithmetic", "count_up", "codes", "copies",
    "shuffle<int>", "shuffle<double>", "shuffle<__half>",
    "copy<float, 4>", "copy<__half, 8>", "copy<unsigned char, 1>", "copy<float, 8>",
    "round_to<__half>", "round_to<__nv_bfloat16>", "widen<__half>", "widen<__nv_bfloat16>",
)  # fmt: skip
LANES = torch.arange(32)


class Arguments(ctypes.Structure):
    """As in emulated.cu."""

    _fields_ = (
        ("input", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        ("count", ctypes.c_longlong),
        ("choice", ctypes.c_int),
        ("value", ctypes.c_int),
    )


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    prebuild((SOURCE.function(name) for name in KERNELS), SM_90)


def run(
    kernel: str,
    output: torch.Tensor,
    input: torch.Tensor | None = None,
    count: int = 0,
    choice: int = 0,
    value: int = 0,
    grid: tuple[int, int, int] = (1, 1, 1),
    block: tuple[int, int, int] = (32, 1, 1),
    cluster: int = 1,
    shared_bytes: int = 0,
    cooperative: bool = False,
    architecture: Architecture = SM_90,
) -> torch.Tensor:
    """``output`` after a launch of one of the kernels of emulated.cu."""
    with emulating(architecture):
        plan = SOURCE.function(kernel).plan(
            grid=grid,
            block=block,
            cluster=cluster,
            shared_bytes=shared_bytes,
            cooperative=cooperative,
            device=output.device,
        )
        source = 0 if input is None else input.data_ptr()
        plan(Arguments(source, output.data_ptr(), count, choice, value))
    return output


def ints(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int32)


def test_each_thread_has_its_indices() -> None:
    grid, block = (2, 3, 2), (4, 3, 5)
    found = run("indices", ints(2, 3, 2, 5, 3, 4, 6), grid=grid, block=block)
    axes = [torch.arange(n) for n in (2, 3, 2, 5, 3, 4)]
    bz, by, bx, z, y, x = torch.meshgrid(*axes, indexing="ij")
    assert torch.equal(found, torch.stack([x, y, z, bx, by, bz], dim=-1).int())


def source_lanes(choice: int, value: int, width: int) -> torch.Tensor:
    """The lane that each lane reads, by CUDA's description of the shuffles."""
    base = LANES // width * width
    if choice == 0:
        return base + value % width
    lanes = (LANES - value, LANES + value, LANES ^ value)[choice - 1]
    outside = lanes < base if choice == 1 else lanes >= base + width
    return torch.where(outside, LANES, lanes)


@pytest.mark.parametrize("width", [1, 2, 8, 32])
@pytest.mark.parametrize("choice", range(4), ids=["lane", "up", "down", "xor"])
@pytest.mark.parametrize(
    ("kind", "dtype"), [("int", torch.int32), ("double", torch.float64), ("__half", torch.float16)]
)
def test_shuffles_move_values_within_a_width(
    kind: str, dtype: torch.dtype, choice: int, width: int
) -> None:
    mine = torch.randperm(32, generator=torch.Generator().manual_seed(0)).to(dtype)
    for value in (0, 1, 3, 5, 16, 31):
        got = run(f"shuffle<{kind}>", torch.empty_like(mine), mine, width, choice, value)
        assert torch.equal(got, mine[source_lanes(choice, value, width)]), value


def test_parts_of_a_warp_shuffle_on_their_own() -> None:
    x = torch.arange(32, dtype=torch.float32)
    got = run("half_warps", torch.empty(32), x)
    assert got[:16].tolist() == [x[:16].sum()] * 16
    assert got[16:].tolist() == [2 * x[16:].sum()] * 16


def test_votes_and_reductions() -> None:
    mine = torch.arange(64, dtype=torch.int32)
    got = run("votes", ints(64, 9), mine, block=(64, 1, 1))
    odd = int.from_bytes(bytes([0xAA] * 4), "little", signed=True)
    lower, upper = mine[:32] - 40, mine[32:] - 40
    for part, values, any_, all_ in ((got[:32], lower, 1, 1), (got[32:], upper, 0, 0)):
        edges = [int(values.sum()), int(values.min()), int(values.max())]
        assert part.tolist() == [[odd, any_, all_, 1, 0, 22, *edges]] * 32


def test_a_missing_barrier_gives_wrong_values() -> None:
    right = torch.arange(1.0, 65).remainder(64).repeat(2)
    shape: dict[str, Any] = {"grid": (2, 1, 1), "block": (64, 1, 1), "shared_bytes": 256}
    assert torch.equal(run("neighbours", torch.empty(128), choice=1, **shape), right)
    wrong = run("neighbours", torch.empty(128), choice=0, **shape)
    assert wrong.isnan().sum() == 64  # the order of the second block would have hidden it
    assert torch.equal(wrong[64:127], right[64:127])


def test_unwritten_shared_memory_is_no_number_in_any_block() -> None:
    assert run("unwritten", torch.zeros(4), grid=(3, 1, 1), shared_bytes=8).isnan().all()


def test_threads_that_have_ended_hold_up_no_barrier() -> None:
    got = run("early_exit", torch.zeros(96), value=70, block=(96, 1, 1), shared_bytes=400)
    assert got.tolist() == [140.0] * 70 + [0.0] * 26


MISTAKES = {
    "a barrier for some": (0, 0, r"nobody can go on: 32 threads wait at __syncthreads .*cluster_wait"),
    "two kinds of barrier": (1, 0, r"divergent barrier: thread .* __syncthreads_or .*__syncthreads "),
    "ended lanes": (2, 0, r"partial shuffle.*lanes 0x0000ffff"),
    "lanes that end": (3, 0, r"partial shuffle: thread \(16,0,0\) of block \(0,0,0\) has ended"),
    "lanes elsewhere": (4, 0, r"nobody can go on:.*__shfl_xor_sync"),
    "a lane outside the mask": (5, 0, r"reads lane 16, which its mask 0x0000ffff leaves out"),
    "a mask without its caller": (6, 0, r"leaves out the calling lane 16"),
    "a byte behind dynamic memory": (7, 64, r"out of bounds: .* after the end of dynamic"),
    "a byte before dynamic memory": (7, -1, r"out of bounds: .* before dynamic"),
    "an element behind a static array": (8, 4, r"out of bounds: .* after the end of a static"),
    "an assertion": (9, 0, r"assertion failed: me < 7: thread \(7,0,0\)"),
    "a trap": (10, 0, r"trapped: thread \(3,0,0\)"),
    "a division by zero": (11, 0, r"integer division by zero: thread"),
    "a bad address": (12, 0, r"cannot be accessed, 0x10: thread \(0,0,0\) of block \(0,0,0\)"),
    "a misaligned vector": (13, 0, r"no multiple of its size"),
    "polling for ever": (14, 0, r"polls for ever at __nanosleep \(emulated.cu:\d+\)"),
    "a wait without an arrival": (15, 0, r"without an arrival before"),
    "two arrivals": (16, 0, r"two arrivals"),
    "a global address": (17, 0, r"takes an address in shared memory"),
    "a rank that is not there": (18, 0, r"has 1 blocks; asked for rank 1"),
    "a width of seven": (19, 0, r"power of two up to 32; got 7"),
    "a barrier more": (21, 0, r"nobody can go on:.*1 threads wait at __syncwarp"),
    "two kinds of exchange": (22, 0, r"divergent warp"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_reported(mistake: str) -> None:
    choice, value, message = MISTAKES[mistake]
    with pytest.raises(KernelError, match=message):
        run("mistake", ints(64), choice=choice, value=value, block=(64, 1, 1), shared_bytes=64)
    # And what comes next is none the worse.
    assert run("early_exit", torch.zeros(32), value=32, shared_bytes=128).tolist() == [64.0] * 32


def test_static_and_dynamic_memory_count_together() -> None:
    small: dict[str, Any] = {"choice": 20, "architecture": SM_80}
    run("mistake", ints(32), shared_bytes=100 * 1024, **small)
    with pytest.raises(KernelError, match="asked for 40960 static and 163840 dynamic"):
        run("mistake", ints(32), shared_bytes=160 * 1024, **small)


def test_a_stack_that_overflows_is_reported() -> None:
    assert run("recursion", ints(2), value=20, block=(1, 1, 1))[0] == 21
    with pytest.raises(KernelError, match="a stack of more than 65536 bytes"):
        run("recursion", ints(2), value=500, block=(1, 1, 1))


RING: dict[str, Any] = {"block": (64, 1, 1), "cluster": 2, "shared_bytes": 256}


@pytest.mark.parametrize("cluster", [1, 2, 8])
def test_blocks_of_a_cluster_read_each_others_memory(cluster: int) -> None:
    got = run(
        "cluster_ring",
        ints(16, 64),
        grid=(16, 1, 1),
        block=(64, 1, 1),
        cluster=cluster,
        shared_bytes=256,
    )
    block = torch.arange(16)
    peer = block // cluster * cluster + (block + 1) % cluster
    assert torch.equal(got, (1001000 * peer[:, None] + torch.arange(64)).int())


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (1, "ended while a peer holds the address"),
        (3, "shared memory of a block that has ended"),
        (4, "was written after it had ended"),
    ],
    ids=["no last barrier", "a peer that ended", "a write too late"],
)
def test_a_block_must_not_end_before_its_peers_are_done(choice: int, message: str) -> None:
    with pytest.raises(KernelError, match=message):
        run("cluster_ring", ints(2, 64), choice=choice, grid=(2, 1, 1), **RING)


def test_a_missing_cluster_barrier_gives_wrong_values() -> None:
    right = run("cluster_ring", ints(2, 64), grid=(2, 1, 1), **RING)
    wrong = run("cluster_ring", ints(2, 64), choice=2, grid=(2, 1, 1), **RING)
    assert not torch.equal(wrong, right)


def test_atomics() -> None:
    start = torch.tensor([0, 0, 2**31 - 1, 0, 0, 0, 0, 0], dtype=torch.int32)
    got = run("atomics", start, grid=(5, 1, 1), block=(64, 1, 1))
    half = got[4:5].view(torch.float32).item()
    assert half == 160.0
    assert [*got[:4].tolist(), *got[5:].tolist()] == [319 * 160, 319, 0, -1, 7, 0, 5]


def test_all_blocks_of_a_cooperative_launch_run_at_once() -> None:
    counters = torch.zeros(3, dtype=torch.int64)
    run("rounds", counters, choice=5, grid=(6, 1, 1), cooperative=True)
    assert counters.tolist() == [60, 30, 0]
    with pytest.raises(KernelError, match="polls for ever"):
        run("rounds", counters.zero_(), choice=5, grid=(6, 1, 1))


def test_clusters_of_a_cooperative_launch_have_barriers_of_their_own() -> None:
    apart = run("cluster_ring", ints(4, 64), grid=(4, 1, 1), **RING)
    together = run("cluster_ring", ints(4, 64), grid=(4, 1, 1), cooperative=True, **RING)
    assert torch.equal(together, apart)


@pytest.mark.parametrize("waited", [0, 1, 2])
def test_copies_arrive_when_they_are_waited_for(waited: int) -> None:
    x = torch.arange(64.0).view(32, 2)
    got = run("copies", torch.zeros(32, 2), x, choice=waited, shared_bytes=256)
    assert torch.equal(got[:, :waited], x[:, :waited])
    assert got[:, waited:].isnan().all()


def test_launches_of_two_threads_take_turns() -> None:
    counters = [ints(1) for _ in range(4)]

    def work(counter: torch.Tensor) -> None:
        for _ in range(3):
            run("count_up", counter, value=50, block=(64, 1, 1), shared_bytes=4)

    threads = [threading.Thread(target=work, args=(counter,)) for counter in counters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [counter.item() for counter in counters] == [150] * 4


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("kernel", "dtype", "width"),
    [
        ("copy<float, 4>", torch.float32, 4),
        ("copy<float, 8>", torch.float32, 8),
        ("copy<__half, 8>", torch.float16, 8),
        ("copy<unsigned char, 1>", torch.uint8, 1),
    ],
)
def test_vectors_move_whole(kernel: str, dtype: torch.dtype, width: int, streaming: bool) -> None:
    x = torch.arange(40 * width).to(dtype)
    got = run(kernel, torch.zeros_like(x), x, count=4 * width, choice=streaming)
    assert torch.equal(got[4 * width : 36 * width], x[4 * width : 36 * width])
    assert not got[: 4 * width].any()
    assert not got[36 * width :].any()


def test_offsets_beyond_two_to_the_31() -> None:
    # Pages that nobody touches take no memory.
    big = torch.empty(2**31 + 4096, dtype=torch.uint8)
    at = 2**31 + 64
    big[at : at + 32] = torch.arange(32)
    run("copy<unsigned char, 1>", big, big[32:], count=at - 32)
    assert big[at - 32 : at].tolist() == list(range(32))


def test_a_struct_of_another_size_is_refused() -> None:
    class Short(ctypes.Structure):
        _fields_ = (("input", ctypes.c_void_p),)

    with emulating(SM_90):
        plan = SOURCE.function("votes").plan(
            grid=(1, 1, 1), block=(32, 1, 1), device=torch.device("cpu")
        )
        with pytest.raises(LaunchError, match="takes 32 bytes, Short has 8"):
            plan(Short())


@pytest.mark.parametrize(("architecture", "number"), [(SM_80, 800), (SM_90, 900)])
def test_a_kernel_knows_its_architecture(architecture: Architecture, number: int) -> None:
    assert run("architecture", ints(1), architecture=architecture).item() == number
