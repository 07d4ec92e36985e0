"""The real cuda.bindings, over a driver library that only says what it is asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qbench_suite.native.compiler import find_compiler

pytest.importorskip("cuda.bindings.driver", reason="cuda.bindings is not installed")
pytestmark = pytest.mark.skipif(
    find_compiler() is None or not sys.platform.startswith("linux"),
    reason="no C++ compiler here, or no Linux",
)

HERE = Path(__file__).parent
CHILD = """
import ctypes, types
from pathlib import Path
import torch
from qbench_suite import CudaSource, LaunchError
from qbench_suite.gpu import loaded
from qbench_suite.gpu.nvrtc import Binary

torch.cuda.get_device_properties = lambda index: types.SimpleNamespace(
    name="A GPU", major=9, minor=0, multi_processor_count=132,
    shared_memory_per_block_optin=232448, L2_cache_size=50 << 20)
torch._C._cuda_getCurrentRawStream = lambda index: 0x5EED
torch._C._cuda_getDevice = lambda: 0
loaded.compiled = lambda function, architecture: Binary(b"image", "_Z5scale", "")

class Two(ctypes.Structure):
    _fields_ = (("pointer", ctypes.c_void_p), ("count", ctypes.c_longlong))

function = CudaSource(Path("scale.cu")).function("scale")
device = torch.device("cuda", 0)
wide = function.plan(grid=(32, 2, 1), block=(128, 2, 1), cluster=16, shared_bytes=100_000,
                     dependent=True, device=device)
wide(Two(0xABCD, 2**40))
whole = function.plan(grid=(132, 1, 1), block=(64, 1, 1), cooperative=True, device=device)
whole(Two(0xABCE, 1))
try:
    whole(Two(0, 0))
except LaunchError as error:
    print(error)
"""
EXPECTED = """\
push 0x100
mode 2
load image 0 0
kernel _Z5scale of 0x200
mode 0
pop
push 0x100
mode 2
attribute 8 of 0x400 = 100000
attribute 14 of 0x400 = 1
clusters with 2 attributes
mode 0
pop
set current 0x100
launch 0x400 32 2 1 / 128 2 1 / 100000 on 0x5eed [4: 16 1 1] [6: 1 0 0] with 0xabcd 1099511627776
push 0x100
mode 2
blocks of 64, 0
mode 0
pop
launch 0x400 132 1 1 / 64 1 1 / 0 on 0x5eed [2: 1 0 0] with 0xabce 1
launch 0x400 132 1 1 / 64 1 1 / 0 on 0x5eed [2: 1 0 0] with 0 0
CUDA accepts the launch of a kernel it has loaded; scale on cuda:0 as (132, 1, 1) blocks of \
(64, 1, 1) threads gives CUDA_ERROR_ILLEGAL_ADDRESS (an illegal memory access was encountered); an \
error of an earlier kernel also shows here: run with CUDA_LAUNCH_BLOCKING=1.
"""


def test_the_driver_library_is_asked_for_what_was_meant(tmp_path: Path) -> None:
    compiler = find_compiler()
    assert compiler is not None
    target = tmp_path / "libcuda.so.1"
    reason = compiler._run(
        "-shared", "-fPIC", str(HERE / "fake_libcuda.cpp"), "-ldl", "-o", str(target)
    )
    assert not reason
    environment = {
        **os.environ,
        "PYTHONPATH": str(HERE.parents[1]),
        "LD_LIBRARY_PATH": f"{tmp_path}{os.pathsep}{os.environ.get('LD_LIBRARY_PATH', '')}",
    }
    done = subprocess.run(
        [sys.executable, "-c", CHILD], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == EXPECTED
