"""The triton kernels: computed in triton's interpreter, compiled for three architectures."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from qbench_norms_triton import KERNELS, qbench_register_norm_kernels, unavailable
from qbench_norms_triton.sizes import Layout, backward_layout, forward_layout
from qbench_suite import NormKernel, NormProblem, ulp_errors

ROOT = Path(__file__).parents[3]
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)
SHORT = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
FLOAT32 = ("offsets", "roots", "dweight_parts", "dbias_parts", "parts")
SIZES = ("rows", "width", "x_stride", "residual_stride", "count")


def run(arguments: list[str], **environment: str) -> str:
    path = os.pathsep.join(map(str, (ROOT, ROOT / "plugins")))
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@needs_triton
def test_they_compute_their_operations_in_the_interpreter() -> None:
    script = str(Path(__file__).with_name("interpreted.py"))
    assert run(["-W", "ignore", script], TRITON_INTERPRET="1") == "done\n"


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_they_compute_their_operations_on_a_device(kernel: NormKernel, dtype: str) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if reason := kernel.unavailable(device):
        pytest.skip(reason)
    operation = kernel.operation
    for width in (97, 1024, 4096, 12288, 40000):
        inputs = operation.inputs(NormProblem((33, width), getattr(torch, dtype), device=device))
        for output, exact in zip(kernel.prepare(inputs)(), operation.exact(inputs), strict=True):
            found = ulp_errors(output, exact)
            assert found.max_ulp <= kernel.tolerance(dtype), (width, found)
            assert not found.nonfinite


def test_the_package_needs_no_triton() -> None:
    code = (
        "import sys; sys.modules['triton'] = None;"
        "import qbench_norms_triton as t; found = [];"
        "t.qbench_register_norm_kernels(found.append); print(len(found))"
    )
    assert run(["-c", code]) == f"{len(KERNELS)}\n"


def test_each_is_registered_once() -> None:
    registered: list[NormKernel] = []
    qbench_register_norm_kernels(registered.append)
    assert registered == list(KERNELS)
    assert len({kernel.name for kernel in KERNELS}) == len(KERNELS) == 8
    assert all(kernel.description for kernel in KERNELS)


def test_where_they_cannot_run_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert unavailable(torch.device("cpu")).endswith("not on cpu")
    monkeypatch.setattr(torch.version, "hip", None)
    assert not unavailable(torch.device("cuda"))
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert "ROCm" in unavailable(torch.device("cuda"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "not installed" in unavailable(torch.device("cuda"))


def test_rows_are_laid_out_by_their_length_alone() -> None:
    assert forward_layout(128) == Layout(16, 128, 4, whole=True)
    assert forward_layout(768) == Layout(2, 1024, 4, whole=True)
    assert forward_layout(4096) == Layout(1, 4096, 8, whole=True)
    assert forward_layout(16384) == Layout(1, 16384, 32, whole=True)
    assert forward_layout(16385).whole is False
    assert backward_layout(8192) == Layout(1, 8192, 16, whole=True)
    assert backward_layout(8193).whole is False
    for width in range(1, 3000, 7):
        layout = forward_layout(width)
        assert layout.columns >= width
        assert layout.columns.bit_count() == layout.rows.bit_count() == 1


def options(layout: Layout) -> dict[str, Any]:
    found: dict[str, Any] = {"centred": True, "weighted": True, "biased": True, "saved": True}
    found["block"] = layout.columns
    return found | ({"summed": True, "block_rows": layout.rows} if layout.whole else {})


def kernels() -> list[Any]:
    """(module, kernel, constants, warps) of every kernel, at its longest rows."""
    found: list[Any] = []
    for width in (128, 768, 4096, 16384, 20000):
        layout = forward_layout(width)
        name = "forward_whole" if layout.whole else "forward_steps"
        found.append((width, "forward_kernel", name, options(layout), layout.warps))
    for width in (128, 768, 4096, 8192, 9000):
        layout = backward_layout(width)
        name = "backward_whole" if layout.whole else "backward_steps"
        constants = {k: v for k, v in options(layout).items() if k != "saved"}
        if not layout.whole:
            constants = {k: v for k, v in constants.items() if k != "biased"} | {"summed": True}
        found.append((width, "backward_kernel", name, constants, layout.warps))
    # The others' branches: no mean, no vectors, no residual.
    for width in (768, 20000):
        for name, layout in (
            ("forward", forward_layout(width)),
            ("backward", backward_layout(width)),
        ):
            constants = dict.fromkeys(("centred", "weighted"), False) | {"block": layout.columns}
            if name == "forward":
                constants |= {"saved": False, "biased": False}
            if name == "backward" or layout.whole:
                constants["summed"] = False
            if layout.whole:
                constants |= {"biased": False, "block_rows": layout.rows}
            kernel = f"{name}_{'whole' if layout.whole else 'steps'}"
            found.append((-width, f"{name}_kernel", kernel, constants, layout.warps))
    parts = {"centred": True, "biased": True, "block_rows": 8, "block": 128}
    found.append((0, "backward_kernel", "column_parts", parts, 4))
    found.append((0, "backward_kernel", "column_sum", {"block_rows": 8, "block": 128}, 4))
    return [pytest.param(*rest, id=f"{rest[1]}-{width}") for width, *rest in found]


@needs_triton
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("module", "name", "constants", "warps"), kernels())
@pytest.mark.parametrize(
    ("architecture", "dtype"), [(80, "float16"), (90, "bfloat16"), (100, "float32")]
)
def test_they_compile_without_spills(
    module: str,
    name: str,
    constants: dict[str, Any],
    warps: int,
    architecture: int,
    dtype: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Loads of 16 bytes, no local memory, and few enough registers that the block fits."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    kernel = getattr(importlib.import_module(f"qbench_norms_triton.{module}"), name)
    compiled = compile_for(kernel, dtype, constants, warps, architecture)
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    tool = Path(sys.modules["triton"].__file__ or "").parent / "backends/nvidia/bin/cuobjdump"
    shown = subprocess.run(
        [tool, "-res-usage", cubin], capture_output=True, text=True, check=True
    ).stdout
    (found,) = re.findall(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", shown)
    registers, stack, local = map(int, found)
    assert (stack, local) == (0, 0)
    assert registers * warps * 32 <= 65536
    assert re.search(r"ld\.global[^\n]*\.v4", compiled.asm["ptx"])


def compile_for(
    kernel: Any, dtype: str, constants: dict[str, Any], warps: int, architecture: int
) -> Any:
    """The kernel compiled ahead of time; pointers and sizes are multiples of 16."""
    triton = importlib.import_module("triton")
    compiler = importlib.import_module("triton.compiler")
    target = importlib.import_module("triton.backends.compiler").GPUTarget("cuda", architecture, 32)
    signature, aligned = {}, {}
    for place, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        pointer = "*fp32" if name in FLOAT32 else f"*{SHORT[dtype]}"
        kinds = {"eps": "fp32", "weight_offset": "fp32"} | dict.fromkeys(SIZES, "i32")
        signature[name] = kinds.get(name, pointer)
        if name not in ("eps", "weight_offset", "rows", "count"):
            aligned[(place,)] = [["tt.divisibility", 16]]
    source = compiler.ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    return triton.compile(
        source, target=target, options={"num_warps": warps, "enable_fp_fusion": True}
    )
