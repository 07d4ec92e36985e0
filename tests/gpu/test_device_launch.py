"""Launches on a device, against a driver that records what it is asked for."""

from __future__ import annotations

import ctypes
import enum
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from qbench_suite.errors import KernelError, LaunchError
from qbench_suite.gpu import CudaSource, LaunchPlan, loaded
from qbench_suite.gpu.nvrtc import Binary

STREAM = 0x5EED


class Result(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_INVALID_CONTEXT = 201


class Record(types.SimpleNamespace):
    """A struct of the driver; its parts appear when they are first touched."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        setattr(self, name, Record())
        return getattr(self, name)


class Names:
    """An enumeration whose members are their own names."""

    def __getattr__(self, name: str) -> str:
        return name


class Driver(types.ModuleType):
    """cuda.bindings.driver, without a GPU: a device of 132 multiprocessors."""

    CUresult = Result
    CUlaunchConfig = CUlaunchAttribute = Record
    CUlaunchAttributeID = CUfunction_attribute = CUstreamCaptureMode = Names()
    CUstream = int

    def __init__(self) -> None:
        super().__init__("cuda.bindings.driver")
        self.calls: list[tuple[Any, ...]] = []
        self.launches: list[tuple[Any, bytes]] = []
        #: What a function returns instead, one call after another.
        self.statuses: dict[str, list[Result]] = {}
        self.parameters = [ctypes.sizeof(Two)]
        self.attributes = {"SHARED_SIZE_BYTES": 0, "MAX_THREADS_PER_BLOCK": 1024}
        self.clusters, self.blocks = 1, 2

    def __getattr__(self, name: str) -> Callable[..., tuple[Any, ...]]:
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append((name, *arguments))
            status = self.statuses.get(name, [Result.CUDA_SUCCESS])
            if (found := status.pop(0) if len(status) > 1 else status[0]) != Result.CUDA_SUCCESS:
                return (found, None)
            return (Result.CUDA_SUCCESS, *self.answer(name, arguments))

        return call

    def answer(self, name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        if name == "cuLaunchKernelEx":
            config, _, addresses, _ = arguments
            (address,) = (ctypes.c_void_p * 1).from_address(addresses)
            self.launches.append((config, ctypes.string_at(address, self.parameters[0])))
            return ()
        answers: dict[str, Callable[[], Any]] = {
            "cuDeviceGet": lambda: f"device {arguments[0]}",
            "cuDevicePrimaryCtxRetain": lambda: f"context of {arguments[0]}",
            "cuThreadExchangeStreamCaptureMode": lambda: "the mode before",
            "cuLibraryLoadData": lambda: "library",
            "cuLibraryGetKernel": lambda: "kernel",
            "cuKernelGetFunction": lambda: "handle",
            "cuFuncGetAttribute": lambda: self.attributes[
                arguments[0].removeprefix("CU_FUNC_ATTRIBUTE_")
            ],
            "cuOccupancyMaxActiveClusters": lambda: self.clusters,
            "cuOccupancyMaxActiveBlocksPerMultiprocessor": lambda: self.blocks,
            "cuGetErrorString": lambda: f"words for {int(arguments[0])}".encode(),
        }
        return (answers[name](),) if name in answers else ()

    def cuKernelGetParamInfo(self, kernel: Any, index: int) -> tuple[Any, ...]:  # noqa: N802
        if index < len(self.parameters):
            return (Result.CUDA_SUCCESS, 0, self.parameters[index])
        return (Result.CUDA_ERROR_INVALID_VALUE, None, None)

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [call[1:] for call in self.calls if call[0] == name]


class Two(ctypes.Structure):
    _fields_ = (("pointer", ctypes.c_void_p), ("factor", ctypes.c_double))


@pytest.fixture(params=[(9, 0), (8, 0)], ids=["sm_90", "sm_80"])
def capability(request: pytest.FixtureRequest) -> tuple[int, int]:
    found: tuple[int, int] = request.param
    return found


@pytest.fixture
def driver(
    capability: tuple[int, int], forgetful: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Driver]:
    fake = Driver()
    package = types.ModuleType("cuda.bindings")
    package.driver = fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", package)
    properties = types.SimpleNamespace(
        name="A GPU",
        major=capability[0],
        minor=capability[1],
        multi_processor_count=132,
        shared_memory_per_block_optin=232_448,
        L2_cache_size=50 << 20,
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: STREAM, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: 0, raising=False)
    monkeypatch.setattr(
        loaded, "compiled", lambda function, chip: Binary(b"image", f"_Z{chip.target}", "")
    )
    return fake


def plan(index: int = 0, **changes: Any) -> LaunchPlan:
    function = CudaSource(Path("scale.cu")).function("scale<float>")
    shape: dict[str, Any] = {"grid": (64, 2, 1), "block": (256, 1, 1), **changes}
    return function.plan(**shape, device=torch.device("cuda", index))


def names(config: Any) -> list[str]:
    assert config.numAttrs == len(config.attrs)
    return [attribute.id.removeprefix("CU_LAUNCH_ATTRIBUTE_") for attribute in config.attrs]


def test_a_launch_hands_over_shape_stream_and_the_structs_bytes(driver: Driver) -> None:
    launch = plan(shared_bytes=96)
    assert not driver.launches, "a plan alone launches nothing"
    for factor in (1.5, 2.5):
        launch(Two(0xABCD, factor))
    (config, first), (_, second) = driver.launches
    assert (config.gridDimX, config.gridDimY, config.gridDimZ) == (64, 2, 1)
    assert (config.blockDimX, config.blockDimY, config.blockDimZ) == (256, 1, 1)
    assert (config.sharedMemBytes, config.hStream) == (96, STREAM)
    assert names(config) == []
    assert (first, second) == (bytes(Two(0xABCD, 1.5)), bytes(Two(0xABCD, 2.5)))
    assert driver.named("cuLaunchKernelEx")[0][1] == "handle"


def test_a_kernel_is_loaded_once_for_all_plans_of_a_device(
    driver: Driver, capability: tuple[int, int]
) -> None:
    for index, grid in ((0, 1), (0, 2), (1, 1)):
        plan(index, grid=(grid, 1, 1))
    assert [call[0] for call in driver.named("cuLibraryLoadData")] == [b"image"] * 2
    target = {(9, 0): b"_Zsm_90a", (8, 0): b"_Zsm_80"}[capability]
    assert driver.named("cuLibraryGetKernel") == [("library", target)] * 2


def test_loading_leaves_context_and_capture_as_they_were(driver: Driver) -> None:
    plan()
    made = [call for call in driver.calls if "Ctx" in call[0] or "Capture" in call[0]]
    (load,) = (at for at, call in enumerate(driver.calls) if call[0] == "cuLibraryLoadData")
    before = driver.calls[:load]
    assert ("cuCtxPushCurrent", "context of device 0") in before
    relaxed = "CU_STREAM_CAPTURE_MODE_RELAXED"
    assert ("cuThreadExchangeStreamCaptureMode", relaxed) in before
    assert made[-2:] == [
        ("cuThreadExchangeStreamCaptureMode", "the mode before"),
        ("cuCtxPopCurrent",),
    ]
    pushes, pops = driver.named("cuCtxPushCurrent"), driver.named("cuCtxPopCurrent")
    assert len(pushes) == len(pops)


def test_each_stream_has_its_own_record(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = plan()
    for stream in (0, STREAM, 0):
        monkeypatch.setattr(launch._launch, "_stream_of", lambda index, stream=stream: stream)
        launch(Two())
    configs = [config for config, _ in driver.launches]
    assert [config.hStream for config in configs] == [0, STREAM, 0]
    assert configs[0] is configs[2]


def test_clusters_are_asked_for(driver: Driver, capability: tuple[int, int]) -> None:
    if capability == (8, 0):
        with pytest.raises(LaunchError, match="a cluster of sm_80 has 1 to 1 blocks"):
            plan(cluster=2)
        assert not driver.calls
        return
    plan(cluster=8)(Two())
    (config, _) = driver.launches[0]
    assert names(config) == ["CLUSTER_DIMENSION"]
    size = config.attrs[0].value.clusterDim
    assert (size.x, size.y, size.z) == (8, 1, 1)
    assert driver.named("cuFuncSetAttribute") == []
    plan(cluster=16)
    wanted = ("handle", "CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED", 1)
    assert driver.named("cuFuncSetAttribute") == [wanted]


@pytest.mark.parametrize("capability", [(9, 0)], ids=["sm_90"], indirect=True)
def test_a_cluster_without_room_is_refused(driver: Driver) -> None:
    driver.clusters = 0
    with pytest.raises(LaunchError, match=r"no room for that; scale<float> was.*clusters of 16"):
        plan(cluster=16)


def test_a_dependent_launch_is_an_ordinary_one_before_sm_90(
    driver: Driver, capability: tuple[int, int]
) -> None:
    plan(dependent=True)(Two())
    (config, _) = driver.launches[0]
    wanted = {(9, 0): ["PROGRAMMATIC_STREAM_SERIALIZATION"], (8, 0): []}[capability]
    assert names(config) == wanted
    for attribute in config.attrs:
        assert attribute.value.programmaticStreamSerializationAllowed == 1


def test_a_cooperative_grid_runs_at_once_or_not_at_all(driver: Driver) -> None:
    plan(grid=(264, 1, 1), cooperative=True)(Two())
    (config, _) = driver.launches[0]
    assert names(config) == ["COOPERATIVE"]
    assert config.attrs[0].value.cooperative == 1
    with pytest.raises(LaunchError, match="run at once; of these, at most 264 do"):
        plan(grid=(265, 1, 1), cooperative=True)


def test_shared_memory_beyond_48_kib_is_asked_for_and_never_less(driver: Driver) -> None:
    driver.attributes["SHARED_SIZE_BYTES"] = 1024
    for wanted in (100, 48 * 1024, 150_000, 60_000, 200_000):
        plan(shared_bytes=wanted)
    assert driver.named("cuFuncSetAttribute") == [
        ("handle", "CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES", wanted)
        for wanted in (48 * 1024, 150_000, 200_000)
    ]
    with pytest.raises(LaunchError, match="1024 of which are static"):
        plan(shared_bytes=232_448)


def test_a_block_beyond_the_kernels_own_bounds_is_refused(driver: Driver) -> None:
    driver.attributes["MAX_THREADS_PER_BLOCK"] = 128
    with pytest.raises(LaunchError, match="at most 128 threads, by its registers or launch bounds"):
        plan()


def test_an_empty_grid_does_not_reach_the_driver(driver: Driver) -> None:
    plan(grid=(0, 1, 1))(Two())
    assert not driver.calls


def test_a_struct_of_another_size_is_refused(driver: Driver) -> None:
    class One(ctypes.Structure):
        _fields_ = (("pointer", ctypes.c_void_p),)

    with pytest.raises(LaunchError, match="takes a struct of 16 bytes; One has 8"):
        plan()(One())
    assert not driver.launches


@pytest.mark.parametrize("parameters", [[], [8, 8]], ids=["none", "two"])
def test_a_kernel_with_other_parameters_is_refused(driver: Driver, parameters: list[int]) -> None:
    driver.parameters = parameters
    words = "none" if not parameters else "several"
    with pytest.raises(KernelError, match=f"of scale.cu takes {words}; put all of them"):
        plan()


def test_a_thread_without_a_context_is_given_one(driver: Driver) -> None:
    driver.statuses["cuLaunchKernelEx"] = [Result.CUDA_ERROR_INVALID_CONTEXT, Result.CUDA_SUCCESS]
    plan()(Two(7, 1.0))
    assert driver.named("cuCtxSetCurrent") == [("context of device 0",)]
    assert [data for _, data in driver.launches] == [bytes(Two(7, 1.0))]


def test_a_launch_on_another_device_than_the_current_one(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    current = [0]

    class Device:
        def __init__(self, index: int) -> None:
            self.index = index

        def __enter__(self) -> None:
            current.append(self.index)

        def __exit__(self, *_: object) -> None:
            current.pop()

    monkeypatch.setattr(torch.cuda, "device", Device)
    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: current[-1], raising=False)
    plan(1)(Two())
    assert len(driver.launches) == 1
    assert current == [0]


@pytest.mark.parametrize(
    "status", [Result.CUDA_ERROR_OUT_OF_MEMORY, Result.CUDA_ERROR_INVALID_CONTEXT]
)
def test_a_refused_launch_says_kernel_shape_and_cudas_words(driver: Driver, status: Result) -> None:
    driver.statuses["cuLaunchKernelEx"] = [status]
    words = (
        rf"scale<float> on cuda:0 as \(64, 2, 1\) blocks of \(256, 1, 1\) threads gives "
        rf"{status.name} \(words for {int(status)}\).*CUDA_LAUNCH_BLOCKING=1"
    )
    with pytest.raises(LaunchError, match=words):
        plan()(Two())


@pytest.mark.parametrize(
    "name",
    [
        "cuInit",
        "cuDeviceGet",
        "cuDevicePrimaryCtxRetain",
        "cuCtxPushCurrent",
        "cuThreadExchangeStreamCaptureMode",
        "cuLibraryLoadData",
        "cuLibraryGetKernel",
        "cuKernelGetFunction",
        "cuFuncGetAttribute",
    ],
)
def test_every_call_is_looked_at(driver: Driver, name: str) -> None:
    driver.statuses[name] = [Result.CUDA_ERROR_OUT_OF_MEMORY]
    with pytest.raises(
        KernelError, match=rf"{name} returned CUDA_ERROR_OUT_OF_MEMORY \(words for 2\)"
    ):
        plan()
    del driver.statuses[name]
    plan()(Two())
    assert len(driver.launches) == 1, "what failed once is tried again"


def test_without_cuda_bindings_there_is_a_remedy(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(KernelError, match=r"launched through cuda\.bindings.*pip install"):
        plan()
