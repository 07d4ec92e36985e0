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

from qbench_suite import LayerError, NativeLibrary
from qbench_w8a16 import W8A16LinearLayer, kernels, native

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
    assert int(done.stdout) >= 20


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bits_depend_on_no_thread(dtype: torch.dtype, bits: int, threads: None) -> None:
    needs_native(dtype)
    torch.manual_seed(1)
    layer = W8A16LinearLayer.from_float(nn.Linear(515, 203), bits=bits, dtype=dtype)
    call = (layer.codes, layer.scales, layer.bias, layer.group_size)
    for rows in (1, 5, 40):
        x = torch.randn(rows, 515).to(dtype)
        found = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(native.linear(x, *call))
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2])


@pytest.mark.parametrize(("bits", "group"), [(8, None), (8, 60), (4, None)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_does_not_depend_on_the_others(
    dtype: torch.dtype, bits: int, group: int | None
) -> None:
    needs_native(dtype)
    torch.manual_seed(2)
    # Wide enough for several panels, with rows for several blocks, and outputs that four do not divide.
    linear = nn.Linear(4500, 10)
    layer = W8A16LinearLayer.from_float(linear, bits=bits, group_size=group, dtype=dtype)
    x = torch.randn(200, 4500).to(dtype)
    alone = torch.cat([layer(row[None]) for row in x])
    for rows in (2, 3, 4, 5, 6, 7, 50, 200):
        call = (layer.codes, layer.scales, layer.bias, layer.group_size)
        assert torch.equal(native.linear(x[:rows], *call), alone[:rows]), rows


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


def test_a_processor_with_a_unit_for_tiles_is_left_to_the_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needs_native(torch.bfloat16)
    monkeypatch.setattr(native, "_features", lambda: 3)
    assert native.most_rows(torch.bfloat16) == native.most_rows(torch.float32) > 2**31
    monkeypatch.setattr(native, "_features", lambda: 7)
    assert native.most_rows(torch.bfloat16) == 16
    assert native.most_rows(torch.float32) > 2**31


@pytest.mark.parametrize("arch", ["native", "x86-64"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_float_weights_are_those_of_torch(
    dtype: torch.dtype, arch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = NativeLibrary(native.LIBRARY.source, arch=arch)
    if library.load() is None:
        pytest.skip(f"not built for {arch}: {library.reason}")
    monkeypatch.setattr(native, "LIBRARY", library)
    monkeypatch.setattr(native, "decoder", native.decoder.__wrapped__)
    for width in (1, 2, 31, 33, 200):
        for bits, group in ((8, None), (8, 7), (4, None), (4, 6), (4, 128)):
            layer = W8A16LinearLayer(width, 5, bits=bits, group_size=group, dtype=dtype)
            layer.quantize(torch.randn(5, width) * torch.logspace(-40, 30, 5)[:, None])
            found = torch.full((5, width), float("nan"), dtype=dtype)
            native.decode(layer.codes, layer.scales, layer.group_size, found)
            assert torch.equal(found, layer.dequantize().to(dtype)), (width, bits, group)


@pytest.mark.parametrize("bits", [8, 4])
def test_float16_is_computed_in_float32_and_rounded_once(bits: int) -> None:
    torch.manual_seed(4)
    layer = W8A16LinearLayer.from_float(nn.Linear(515, 20), bits=bits, dtype=torch.float16)
    x = torch.randn(7, 515, dtype=torch.float16)
    found = layer(x)
    expected = layer.to(torch.float32)(x.to(torch.float32))
    assert torch.equal(found, expected.to(torch.float16))


def test_dispatch_is_by_dtype_and_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = W8A16LinearLayer(64, 4)
    float16 = W8A16LinearLayer(64, 4, dtype=torch.float16)
    assert float16.kernel(1) == W8A16LinearLayer(64, 4, dtype=torch.float32).kernel(1)
    monkeypatch.setattr(native, "most_rows", lambda dtype: 16)
    assert [plain.kernel(rows) for rows in (1, 16, 17)] == ["native", "native", "tiles"]
    monkeypatch.setattr(native, "most_rows", lambda dtype: 0)
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
            patch.setattr(native, "most_rows", lambda dtype: 0)
            patch.setattr(native, "decoder", lambda dtype: None)
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
        arguments[0].requires_grad_(True)
        torch.library.opcheck(torch.ops.qbench_w8a16.linear.default, arguments)


@pytest.mark.parametrize(
    "wrong",
    [
        {"codes": torch.ones(5, 35, dtype=torch.int8)},
        {"codes": torch.ones(5, 70)},
        {"scales": torch.ones(4, 1)},
        {"bias": torch.ones(1)},
        {"group": 35},
        {"group": 0},
        {"codes": torch.ones(5, 35, dtype=torch.uint8), "group": 7, "scales": torch.ones(5, 10)},
    ],
    ids=["width", "dtype", "scales", "bias", "groups", "no-group", "odd-groups"],
)
def test_sizes_that_would_be_read_beyond_their_end_are_refused(wrong: dict[str, object]) -> None:
    codes, scales = torch.ones(5, 70, dtype=torch.int8), torch.ones(5, 1)
    good = {"x": torch.ones(2, 70), "codes": codes, "scales": scales, "bias": None, "group": 70}
    assert kernels.linear(**good).shape == (2, 5)
    with pytest.raises(LayerError, match="Take all of them from one layer"):
        kernels.linear(**{**good, **wrong})


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("outputs", [1, 2, 3, 5, 6, 7, 66, 71])
def test_outputs_that_four_do_not_divide(outputs: int, dtype: torch.dtype) -> None:
    needs_native(dtype)
    torch.manual_seed(5)
    layer = W8A16LinearLayer.from_float(nn.Linear(200, 72), dtype=dtype)
    x = torch.randn(40, 200).to(dtype)
    assert layer.bias is not None
    for rows in (1, 5, 40):
        every = native.linear(x[:rows], layer.codes, layer.scales, layer.bias, 200)
        parts = (layer.codes[:outputs], layer.scales[:outputs], layer.bias[:outputs])
        assert torch.equal(native.linear(x[:rows], *parts, 200), every[:, :outputs])
