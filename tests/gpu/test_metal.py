"""Metal kernels in the emulator: positions, simdgroups, number types, mistakes; and torch's part."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qbench_suite import KernelError
from qbench_suite.errors import DeviceError, LaunchError
from qbench_suite.gpu import SM_90, emulating
from qbench_suite.gpu import metal as module
from qbench_suite.gpu.metal import MetalSource
from qbench_suite.native.compiler import find_compiler

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler here")

SOURCE = MetalSource(Path(__file__).with_name("emulated.metal"))
TYPES = {"float": torch.float32, "half": torch.float16, "bfloat": torch.bfloat16}
CPU = torch.device("cpu")


def planned(
    name: str,
    grid: tuple[int, int, int] = (1, 1, 1),
    threadgroup: tuple[int, int, int] = (32, 1, 1),
    kind: str = "float",
) -> Callable[..., None]:
    with emulating(SM_90):
        return SOURCE.function(name, T=kind).plan(grid=grid, threadgroup=threadgroup, device=CPU)


@pytest.mark.parametrize("threads", [32, 50, 256])
@pytest.mark.parametrize("kind", TYPES)
def test_a_reduction_over_rows(kind: str, threads: int) -> None:
    x = torch.randn(3, 1001, generator=torch.Generator().manual_seed(0)).to(TYPES[kind])
    y = torch.empty_like(x)
    planned("row_norm", (3, 1, 1), (threads, 1, 1), kind)(x, y, 2.0, 1001)
    wide = x.double()
    expected = 2 * wide * wide.square().mean(1, keepdim=True).rsqrt()
    ulp = {"float": 2e-7, "half": 2**-11, "bfloat": 2**-8}[kind]
    assert ((y - expected).abs() <= 1.01 * ulp * expected.abs() + 1e-7).all()


def test_positions_are_metals() -> None:
    grid, group = (2, 3, 2), (5, 4, 3)
    out = torch.zeros(math.prod(grid) * math.prod(group), 8, dtype=torch.int32)
    planned("positions", grid, group)(out)
    assert out[:, :3].all()
    assert out[:, 6].eq(32).all()
    assert out[:, 7].eq(2).all()
    assert out[:, 3].bincount().tolist() == [math.prod(grid)] * 60
    assert torch.equal(out[:, 3], out[:, 4] + 32 * out[:, 5])


def test_simdgroups_reduce_and_shuffle() -> None:
    x = torch.randperm(32, generator=torch.Generator().manual_seed(0)).float()
    out = torch.zeros(32, 9)
    planned("lanes")(x, out)
    assert out[:, 0].eq(x.sum()).all()
    assert out[:, 1].eq(31).all()
    assert out[:, 2].eq(0).all()
    assert torch.equal(out[:, 3], x.view(-1, 2).flip(1).flatten())
    assert torch.equal(out[:, 4], torch.cat([x[1:], x[-1:]]))
    assert torch.equal(out[:, 5], torch.cat([x[:1], x[:-1]]))
    assert out[:, 6].eq(x[2]).all()
    assert out[:, 7:].unique(dim=0).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("kind", ["half", "bfloat"])
def test_floats_of_16_bits_round_as_torchs(kind: str) -> None:
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(TYPES[kind]).float()
    near = every.nextafter(torch.tensor(math.inf))
    halfway = (every[:-1] + every[1:]) / 2
    bits = torch.randint(-(2**31), 2**31, (2**16,), generator=torch.Generator().manual_seed(1))
    x = torch.cat([every, near, halfway, every[:1], bits.int().view(torch.float32)])
    narrow, wide = torch.empty(x.shape, dtype=TYPES[kind]), torch.empty_like(x)
    planned("convert", (x.numel() // 256, 1, 1), (256, 1, 1), kind)(x, narrow, wide)
    expected = x.to(TYPES[kind])
    numbers = ~x.isnan()
    assert narrow[~numbers].isnan().all()
    assert torch.equal(narrow.view(torch.int16)[numbers], expected.view(torch.int16)[numbers])
    assert torch.equal(wide[numbers], expected[numbers].float())


def test_vectors() -> None:
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    y, dots = torch.empty(32, 4, dtype=torch.float16), torch.empty(32)
    planned("vectors")(x, y, dots)
    v = x * 2 + torch.tensor([1.0, 0, 0, 1]) - 0.5
    v[:, 1] = v[:, 1].clamp(-1, 1)
    assert torch.equal(y, v.half())
    torch.testing.assert_close(dots, v[:, 0] * x[:, 0] + v[:, 1] + v[:, 2] + 2 * v[:, 3])


def test_atomics() -> None:
    counter = torch.zeros(1, dtype=torch.int32)
    planned("count_all", (4, 1, 1), (64, 1, 1))(counter)
    assert counter.item() == 255 * 128


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (1, r"partial shuffle: .*simd_sum \(emulated.metal:\d+\)"),
        (2, r"out of bounds: .* after the end of a static array"),
        (4, r"nobody can go on: .*simdgroup_barrier"),
    ],
    ids=["part of a simdgroup", "out of bounds", "divergent barrier"],
)
def test_mistakes_are_reported(choice: int, message: str) -> None:
    with pytest.raises(KernelError, match=message):
        planned("mistake", threadgroup=(64, 1, 1))(torch.zeros(64), choice)


def test_unwritten_threadgroup_memory_is_no_number() -> None:
    out = torch.zeros(64)
    planned("mistake", (2, 1, 1), (64, 1, 1))(out, 3)
    assert out.isnan().all()


def test_an_empty_grid_launches_nothing() -> None:
    out = torch.zeros(64)
    planned("mistake", (0, 1, 1))(out, 3)
    assert out.eq(0).all()


def test_a_function_of_a_macro_is_compiled_for_each_value(tmp_path: Path) -> None:
    file = tmp_path / "constant.metal"
    file.write_text(
        "#include <metal_stdlib>\nusing namespace metal;\n"
        "kernel void fill(device float* out [[buffer(0)]], // a comment, with (a, comma\n"
        "    uint me [[thread_position_in_grid]]) { out[me] = SIGNED ? -VALUE : VALUE; }\n"
    )
    out = torch.zeros(32)
    for value, signed in ((2, False), (0.5, True)):
        function = MetalSource(file).function("fill", VALUE=value, SIGNED=signed)
        with emulating(SM_90):
            function.plan(grid=(1, 1, 1), threadgroup=(32, 1, 1), device=CPU)(out)
        assert out.eq(-value if signed else value).all()


def test_what_a_source_includes_is_beside_it(tmp_path: Path) -> None:
    shared = "// shared\n#pragma once\nconstant constexpr float kAnswer = 42;\n"
    (tmp_path / "shared.h").write_text(shared)
    include = '#include "shared.h"\n'
    (tmp_path / "other.h").write_text(f"{include}inline float answer() {{ return kAnswer; }}\n")
    (tmp_path / "user.metal").write_text(
        f'#include <metal_stdlib>\n{include}#include "other.h"\n'
        "kernel void fill(device float* out [[buffer(0)]], uint me [[thread_position_in_grid]]) {\n"
        "    out[me] = answer();\n}\n"
    )
    out = torch.zeros(32)
    shape: dict[str, Any] = {"grid": (1, 1, 1), "threadgroup": (32, 1, 1), "device": CPU}
    source, wrong = MetalSource(tmp_path / "user.metal"), MetalSource(tmp_path / "wrong.metal")
    wrong.path.write_text(source.path.read_text().replace("answer()", "nothing"))
    with emulating(SM_90):
        source.function("fill").plan(**shape)(out)
        assert out.eq(42).all()
        with pytest.raises(KernelError, match=r"wrong\.metal:5:\d+: error: .*nothing"):
            wrong.function("fill").plan(**shape)
    (tmp_path / "other.h").unlink()
    with emulating(SM_90), pytest.raises(KernelError, match=r"No such file.*other\.h"):
        source.function("fill", AGAIN=1).plan(**shape)


BROKEN = "kernel void broken(device float* out [[buffer(0)]], uint me) { out[me] = 0; }"


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (BROKEN, "other", r"has no kernel 'other'; choose one of broken"),
        (BROKEN, "broken", r"each parameter .* `uint me` of broken in text.metal has none"),
        ("", "broken", r"choose one of none"),
        (BROKEN.replace("me)", "me [[thread_index_in_simdgroup]])").replace("out[me]", "nothing"),
         "broken", r"text is not: .*nothing"),
    ],
    ids=["no such kernel", "no attribute", "empty", "does not compile"],
)  # fmt: skip
def test_bad_sources(tmp_path: Path, text: str, name: str, message: str) -> None:
    file = tmp_path / "text.metal"
    file.write_text(text)
    with emulating(SM_90), pytest.raises(KernelError, match=message):
        MetalSource(file).function(name).plan(grid=(1, 1, 1), threadgroup=(32, 1, 1), device=CPU)


def test_bad_launches(tmp_path: Path) -> None:
    function = SOURCE.function("lanes", T="float")
    shape: dict[str, Any] = {"grid": (1, 1, 1), "threadgroup": (32, 1, 1)}
    with pytest.raises(DeviceError, match="mps devices; the tensors are on 'cpu'"):
        function.plan(**shape, device=CPU)
    with pytest.raises(LaunchError, match="1 to 1024 threads"):
        planned("lanes", threadgroup=(1025, 1, 1))
    with pytest.raises(LaunchError, match=r"lanes of emulated\.metal has 2 buffers, and got 1 "):
        planned("lanes")(torch.zeros(32))
    missing = MetalSource(tmp_path / "missing.metal").function("lanes")
    with emulating(SM_90), pytest.raises(KernelError, match=r"readable source; .*missing.metal"):
        missing.plan(**shape, device=CPU)


class _Library:
    """What torch.mps.compile_shader gives: kernels by name."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def lanes(self, *arguments: Any, **shape: Any) -> None:
        self.calls.append((arguments, shape))


def test_torch_is_given_the_source_and_counts_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    libraries: list[_Library] = []

    def compile_shader(text: str) -> _Library:
        libraries.append(_Library(text))
        return libraries[-1]

    monkeypatch.setattr(torch.mps, "compile_shader", compile_shader)
    function = SOURCE.function("lanes", T="half")
    try:
        plan = function.plan(grid=(3, 2, 1), threadgroup=(64, 2, 1), device=torch.device("mps"))
        plan("x", 2)
    finally:
        module._compiled.cache_clear()
        module._on_device.cache_clear()
    assert libraries[0].text == (
        '#include <metal_stdlib>\n#define T half\n#line 1 "emulated.metal"\n'
        + SOURCE.path.read_text()
    )
    assert libraries[0].calls == [(("x", 2), {"threads": [192, 4, 1], "group_size": [64, 2, 1]})]


def test_torchs_complaint_is_a_kernel_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_shader(text: str) -> None:
        raise SyntaxError("program_source:7: no such type")

    monkeypatch.setattr(torch.mps, "compile_shader", compile_shader)
    with pytest.raises(
        KernelError, match=r"lanes of emulated\.metal does not compile: program_source"
    ):
        SOURCE.function("lanes", T="nothing").plan(
            grid=(1, 1, 1), threadgroup=(32, 1, 1), device=torch.device("mps")
        )


@pytest.mark.skipif(not torch.backends.mps.is_available(), reason="no Apple GPU here")
def test_an_apple_gpu_and_the_emulator_agree() -> None:
    x = torch.randn(3, 1001, generator=torch.Generator().manual_seed(0))
    here, there = torch.empty_like(x), torch.empty_like(x, device="mps")
    planned("row_norm", (3, 1, 1), (256, 1, 1))(x, here, 2.0, 1001)
    SOURCE.function("row_norm", T="float").plan(
        grid=(3, 1, 1), threadgroup=(256, 1, 1), device=there.device
    )(x.to("mps"), there, 2.0, 1001)
    torch.testing.assert_close(there.cpu(), here)
