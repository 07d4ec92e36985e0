"""The compiled library: no float instruction in it, and the same bits without it."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys

import pytest

from qbench_fqvit import ops
from qbench_fqvit.ops import native
from qbench_suite.compliance.integer import audit_disassembly

#: Prints a digest of what the operators give, and the number of libraries they run in.
_RUN = """
import hashlib, torch
from qbench_fqvit import ops
make = torch.Generator().manual_seed(0)
def draw(low, high, *shape, dtype=torch.int8):
    return torch.randint(low, high, shape, generator=make).to(dtype)
x, weight = draw(-128, 128, 2, 9, 48), draw(-128, 128, 144, 48)
multiplier, shift = draw(2**29, 2**30, 144, dtype=torch.int32), draw(38, 42, 144)
table = torch.arange(256, 0, -1, dtype=torch.int32)
norm = ops.layer_norm(x, shift[:48] - 38, multiplier[:48], multiplier[:48] >> 26)
qkv = ops.linear_requantize(norm, weight, None, multiplier, shift).unflatten(-1, (3, 4, 12))
parts = [norm, qkv]
for code in ("uniform8", "lis4", "log8"):
    parts.append(ops.attention(
        qkv, multiplier[:4], 40, table, None, multiplier[:48], shift[:48], code))
parts.append(ops.linear_residual(
    parts[-1], weight[:48], None, x, multiplier[:48], multiplier[:48], shift[:48]))
digest = hashlib.sha256(b"".join(part.contiguous().numpy().tobytes() for part in parts))
print(digest.hexdigest(), len(ops.libraries()))
"""


def run(**environment: str) -> tuple[str, str]:
    """Digest and number of libraries in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-W", "error::FutureWarning", "-c", _RUN],
        capture_output=True, text=True, check=True, env={**os.environ, **environment},
    )  # fmt: skip
    digest, count = done.stdout.split()
    return digest, count


def test_the_same_bits_without_a_compiler() -> None:
    with_library, count = run()
    without, none = run(QBENCH_NATIVE="0")
    assert (with_library, none) == (without, "0")
    assert len(with_library) == hashlib.sha256().digest_size * 2
    assert count == str(len(ops.libraries()))


@pytest.mark.parametrize("arch", ["native", "x86-64", "x86-64-v3", "cascadelake"])
def test_no_instruction_computes_with_floats(arch: str) -> None:
    if arch != "native" and platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip(f"{arch} is no instruction set of {platform.machine()}")
    path = native.library(arch).path
    if path is None:
        pytest.skip(f"no library: {native.library(arch).reason}")
    audit = audit_disassembly(path)
    if audit.not_run:
        pytest.skip(audit.not_run)
    assert audit.passed, str(audit)
    assert audit.looked_at > 1000


def test_the_libraries_are_files() -> None:
    assert all(path.is_file() and path.suffix == ".so" for path in ops.libraries())
    assert bool(ops.libraries()) == (native.kernels() is not None)
