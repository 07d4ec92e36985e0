"""The kernels: exact for every width, the same bits for any number of threads and rows."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from qbench_suite import NativeLibrary
from qbench_w8a16 import W8A16LinearLayer, native

ROOT = Path(__file__).parents[3]
DTYPES = [torch.float32, torch.bfloat16]


def child(script: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(map(str, (ROOT, ROOT / "plugins")))
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def needs_native(dtype: torch.dtype) -> None:
    if native.function(dtype) is None:
        reason = native.LIBRARY.reason or f"this processor has no instructions for {dtype}"
        pytest.skip(f"no native kernel: {reason}")


@pytest.mark.parametrize(("kernel", "widths"), [("native", 130), ("int8pack", 130), ("tiles", 34)])
def test_every_width_is_exact_within_the_rounding_of_float32_sums(kernel: str, widths: int) -> None:
    if kernel == "native":
        needs_native(torch.float32)
    done = child(Path(__file__).with_name("exactness.py"), kernel, str(widths))
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 30


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bits_depend_on_no_thread(dtype: torch.dtype, bits: int, threads: None) -> None:
    needs_native(dtype)
    torch.manual_seed(1)
    layer = W8A16LinearLayer.from_float(nn.Linear(515, 203), bits=bits, dtype=dtype)
    for rows in (1, 5, 40):
        x = torch.randn(rows, 515).to(dtype)
        found = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(layer(x))
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_does_not_depend_on_the_others(dtype: torch.dtype, bits: int) -> None:
    needs_native(dtype)
    torch.manual_seed(2)
    # Wide enough for several panels, with rows for several blocks, and outputs that four do not divide.
    layer = W8A16LinearLayer.from_float(nn.Linear(4500, 10), bits=bits, dtype=dtype)
    x = torch.randn(200, 4500).to(dtype)
    alone = torch.cat([layer(row[None]) for row in x])
    for rows in (2, 3, 4, 5, 6, 7, 50, 200):
        assert torch.equal(layer(x[:rows]), alone[:rows]), rows


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_code_is_decoded_exactly(dtype: torch.dtype, bits: int) -> None:
    largest = 127 if bits == 8 else 7
    codes = torch.arange(-largest, largest + 1, dtype=torch.int8).repeat(3, 3)
    layer = W8A16LinearLayer.from_codes(
        codes, torch.ones(3, 1), None, dtype=dtype, bits=bits, group_size=codes.shape[1]
    )
    width = codes.shape[1]
    assert torch.equal(layer(torch.eye(width, dtype=dtype)), codes.T.to(dtype))
    assert torch.equal(layer(torch.eye(width, dtype=dtype)[:1]), codes.T.to(dtype)[:1])


def test_dispatch_is_by_dtype_and_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = W8A16LinearLayer(64, 4)
    assert W8A16LinearLayer(64, 4, dtype=torch.float16).kernel(1) == "tiles"
    if native.function(torch.bfloat16) is not None:
        assert {plain.kernel(rows) for rows in (1, 8, 64, 2048)} == {"native"}
    monkeypatch.setattr(native, "function", lambda dtype: None)
    assert plain.kernel(1) == "int8pack"
    assert plain.kernel(8) == "int8pack"
    assert plain.kernel(9) == "tiles"
    assert W8A16LinearLayer(60, 4).kernel(4) == "tiles"
    assert W8A16LinearLayer(64, 4, bits=4).kernel(1) == "tiles"
    assert W8A16LinearLayer(64, 4, dtype=torch.float32).kernel(1) == "tiles"


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16], ids=str)
def test_without_native_code_it_computes_the_same_within_rounding(
    dtype: torch.dtype, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(3)
    layer = W8A16LinearLayer.from_float(nn.Linear(320, 600), bits=bits, dtype=dtype)
    for rows in (1, 20):
        x = torch.randn(rows, 320).to(dtype)
        expected = layer(x).double()
        with monkeypatch.context() as patch:
            patch.setattr(native, "function", lambda dtype: None)
            found = layer(x).double()
        error = (found - expected).norm() / expected.norm()
        assert error <= 8 * torch.finfo(dtype).eps


def test_native_code_can_be_switched_off() -> None:
    code = (
        "import torch; from qbench_w8a16 import W8A16LinearLayer as L;"
        "l = L(64, 4); print(l.kernel(1), l(torch.ones(2, 64, dtype=torch.bfloat16)).shape)"
    )
    path = os.pathsep.join(map(str, (ROOT, ROOT / "plugins")))
    env = {**os.environ, "PYTHONPATH": path, "QBENCH_NATIVE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True
    )
    assert done.stdout.split(" ")[0] == "int8pack"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="names an x86 instruction set")
def test_a_build_without_the_instructions_says_so() -> None:
    library = NativeLibrary(native.LIBRARY.source, arch="x86-64").load()
    if library is None:
        pytest.skip("no C++ compiler here")
    assert library.w8a16_features() == 0


def test_the_operator_keeps_its_contract() -> None:
    layer = W8A16LinearLayer.from_float(nn.Linear(70, 5), dtype=torch.float32)
    for shape in ((3, 70), (2, 3, 70), (0, 70), (70,)):
        arguments = (torch.randn(shape), layer.codes, layer.scales, layer.bias, 70)
        torch.library.opcheck(torch.ops.qbench_w8a16.linear.default, arguments)
