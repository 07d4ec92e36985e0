"""Kernels from source to result: in the emulator, and on a GPU where there is one."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from qbench_suite.errors import DeviceError, KernelError, LaunchError
from qbench_suite.gpu import SM_80, SM_90, CudaSource, architecture_of, emulating


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("count", [0, 1, 1001, 4096])
@pytest.mark.parametrize("offset", [0, 1], ids=["aligned", "misaligned"])
def test_a_kernel_computes_what_torch_does(
    axpy: Any, device: torch.device, dtype: torch.dtype, count: int, offset: int
) -> None:
    torch.manual_seed(count)
    x, y = (torch.randn(count + offset, device=device).to(dtype)[offset:] for _ in range(2))
    expected = (3 * x.double() + y.double()).to(dtype)
    axpy(3.0, x, y)
    # One rounding of the product and one of the sum; a fused device rounds once.
    torch.testing.assert_close(y, expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


def test_blocks_of_a_cluster_share_memory(axpy: Any, device: torch.device) -> None:
    if not architecture_of(device).clusters:
        pytest.skip("clusters came with sm_90")
    y = torch.full((8,), -1.0, device=device)
    plan = axpy.source.function("ranks").plan(
        grid=(8, 1, 1), block=(32, 1, 1), cluster=4, shared_bytes=16, device=device
    )
    plan(axpy.arguments(0, y.data_ptr(), 8, 0, 0))
    assert y.tolist() == [10, 0, 0, 0, 10, 0, 0, 0]


def test_a_plan_is_made_once_for_each_way_to_launch(axpy: Any, device: torch.device) -> None:
    function = axpy.function(torch.float32)
    plans = [
        axpy.source.function(function.expression).plan(
            grid=(blocks, 1, 1), block=(256, 1, 1), device=device
        )
        for blocks in (1, 2, 1)
    ]
    assert plans[0] is plans[2]
    assert plans[0] is not plans[1]
    assert plans[1].shape.grid == (2, 1, 1)
    assert plans[1].architecture == architecture_of(device)


def test_an_empty_grid_launches_nothing(device: torch.device) -> None:
    missing = CudaSource(Path("no such file.cu")).function("none")
    missing.plan(grid=(3, 0, 1), block=(32, 1, 1), device=device)(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["cpu", "meta"])
def test_tensors_elsewhere_are_refused(axpy: Any, kind: str) -> None:
    x = torch.ones(8, device=kind)
    with pytest.raises(DeviceError, match=f"the tensors are on '{kind}'; move the tensors"):
        axpy.function(torch.float32).plan(grid=(1, 1, 1), block=(32, 1, 1), device=x.device)


def test_emulating_ends_with_its_block_and_is_the_innermost(axpy: Any) -> None:
    cpu = torch.device("cpu")
    with emulating(SM_80) as outer:
        with emulating(SM_90):
            assert architecture_of(cpu) == SM_90
        assert architecture_of(cpu) == outer == SM_80
    with pytest.raises(DeviceError, match=r"with emulating\(SM_90\)"):
        architecture_of(cpu)


def test_emulating_is_of_its_thread_alone() -> None:
    seen: list[object] = []

    def look() -> None:
        try:
            seen.append(architecture_of(torch.device("cpu")))
        except DeviceError as error:
            seen.append(error)

    with emulating(SM_80):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    assert isinstance(seen[0], DeviceError)


def test_the_architecture_decides_what_may_be_launched(axpy: Any) -> None:
    function = axpy.source.function("ranks")
    with emulating(SM_80), pytest.raises(LaunchError, match="a cluster of sm_80 has 1 to 1 blocks"):
        function.plan(grid=(4, 1, 1), block=(32, 1, 1), cluster=2, device=torch.device("cpu"))


def test_a_struct_of_another_size_is_refused(axpy: Any, device: torch.device) -> None:
    class Other(ctypes.Structure):
        _fields_ = (("x", ctypes.c_void_p),)

    plan = axpy.function(torch.float32).plan(grid=(1, 1, 1), block=(32, 1, 1), device=device)
    with pytest.raises(LaunchError, match=r"takes .*32 bytes.*Other has 8"):
        plan(Other())


def test_what_is_no_kernel_of_the_source_is_an_error(axpy: Any, device: torch.device) -> None:
    with pytest.raises(KernelError, match="absent"):
        axpy.source.function("absent<3>").plan(grid=(1, 1, 1), block=(32, 1, 1), device=device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_launch_joins_torchs_stream_and_a_graph(axpy: Any) -> None:
    x, y = torch.ones(1 << 20, device="cuda"), torch.zeros(1 << 20, device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        axpy(1.0, x, y)
        z = y + 1
    torch.cuda.current_stream().wait_stream(side)
    assert (z == 2).all()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        axpy(2.0, x, y)
    for _ in range(3):
        graph.replay()
    assert (y == 7).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_kernel_is_loaded_while_a_graph_is_captured(axpy: Any, forgetful: object) -> None:
    x, y = torch.ones(64, device="cuda"), torch.zeros(64, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        axpy(2.0, x, y)
    graph.replay()
    assert (y == 2).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_thread_without_a_context_launches(axpy: Any) -> None:
    x, y = torch.ones(64, device="cuda"), torch.zeros(64, device="cuda")
    plan = axpy.function(torch.float32).plan(grid=(1, 1, 1), block=(32, 1, 1), device=x.device)
    arguments = axpy.arguments(x.data_ptr(), y.data_ptr(), 64, 1.0, 1)
    thread = threading.Thread(target=plan, args=(arguments,))
    thread.start()
    thread.join()
    assert (y == 1).all()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device at most")
def test_a_launch_goes_to_the_device_of_its_tensors(axpy: Any) -> None:
    x, y = torch.ones(64, device="cuda:1"), torch.zeros(64, device="cuda:1")
    with torch.cuda.device(0):
        axpy(1.0, x, y)
    assert (y == 1).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_shared_memory_beyond_48_kib_is_allowed_on_a_device(axpy: Any) -> None:
    y = torch.zeros(8, device="cuda")
    most = architecture_of(y.device).shared_bytes
    for shared in (most, 16, most):  # the smaller one must not undo the larger
        plan = axpy.source.function("ranks").plan(
            grid=(8, 1, 1), block=(32, 1, 1), shared_bytes=shared, device=y.device
        )
        plan(axpy.arguments(0, y.data_ptr(), 8, 0, 0))
        assert (y == 1).all()
