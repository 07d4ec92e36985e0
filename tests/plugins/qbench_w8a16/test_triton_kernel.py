"""The triton kernel, in triton's interpreter, in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = """
import torch
from torch import nn
from qbench_w8a16 import W8A16LinearLayer, triton_kernel

torch.manual_seed(0)
# The interpreter multiplies the bit patterns of bfloat16: that dtype needs a device.
for dtype, tolerance in ((torch.float32, 1e-6), (torch.float16, 1e-3)):
    for bits, group in ((8, None), (8, 32), (8, 16), (4, None), (4, 48), (4, 4096)):
        for width, outputs, rows in ((33, 7, 1), (97, 70, 20)):
            linear = nn.Linear(width, outputs, bias=rows > 1)
            layer = W8A16LinearLayer.from_float(linear, bits=bits, group_size=group, dtype=dtype)
            x = torch.randn(rows, width).to(dtype)
            found = triton_kernel.linear(x, layer.codes, layer.scales, layer.bias, layer.group_size)
            exact = x.double() @ layer.dequantize().double().T
            exact = exact if layer.bias is None else exact + layer.bias.double()
            assert found.dtype == dtype
            error = (found.double() - exact).abs().max()
            assert error <= tolerance, (dtype, bits, group, width, float(error))
print("done")
"""

COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from qbench_w8a16.triton_kernel import _kernel

kinds = {"x": "*bf16", "codes": "*i8", "scales": "*fp32", "bias": "*fp32", "y": "*bf16"}
for bits, grouped, codes in ((8, False, "*i8"), (8, True, "*i8"), (4, True, "*u8")):
    constants = {"bits": bits, "grouped": grouped, "biased": True}
    constants |= {"block_rows": 16, "block_outputs": 64, "block_width": 64}
    names = {name: "i32" for name in _kernel.arg_names} | kinds | {"codes": codes}
    names |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(fn=_kernel, signature=names, constexprs=constants)
    for architecture in (80, 90):
        compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32))
        assert compiled.asm["cubin"]
print("done")
"""


def test_the_package_needs_no_triton() -> None:
    code = (
        "import sys; sys.modules['triton'] = None;"
        "import torch; from qbench_w8a16 import W8A16LinearLayer as L;"
        "print(L(8, 2, dtype=torch.float32)(torch.ones(1, 8)).shape)"
    )
    assert "Size([1, 2])" in run(code)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_it_computes_what_the_weights_say() -> None:
    assert run(SCRIPT, TRITON_INTERPRET="1") == "done\n"


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_it_compiles_for_devices(tmp_path: Path) -> None:
    """What the interpreter does not see: what the compiler accepts."""
    assert run(COMPILE, TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0") == "done\n"


def run(code: str, **environment: str) -> str:
    path = os.pathsep.join(map(str, (ROOT, ROOT / "plugins")))
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
