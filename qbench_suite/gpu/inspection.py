"""What a kernel takes of a multiprocessor: found in its machine code, without a GPU."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qbench_suite.errors import KernelError
from qbench_suite.gpu.architectures import Architecture
from qbench_suite.gpu.cubins import compiled
from qbench_suite.gpu.nvrtc import Binary, version
from qbench_suite.gpu.toolkit import headers, tool

if TYPE_CHECKING:
    from qbench_suite.gpu.source import CudaFunction

_TIMEOUT_S = 120
#: An access to global memory (or through a generic pointer), with its modifiers.
_ACCESS = re.compile(r"\b(LDGSTS|LDG|LD|STG|ST)((?:\.\w+)+)")
_WIDE = re.compile(r"\.(?:128|256)\b")


@dataclass(frozen=True)
class Resources:
    """What one kernel uses, by its compiler's account and its instructions."""

    #: 32-bit registers of a thread.
    registers: int
    #: Bytes that a thread stores and loads because registers did not suffice.
    spill_bytes: int
    #: Bytes of a thread's stack: spills, and arrays indexed by what is not known when compiling.
    stack_bytes: int
    #: Bytes of a block's static shared memory.
    shared_bytes: int
    #: Instructions that load at least 128 bits of global memory a thread.
    wide_loads: int
    #: Instructions that store as much.
    wide_stores: int
    #: Instructions that load global memory, wide ones included.
    loads: int
    #: Instructions that store to it, wide ones included.
    stores: int


def inspection_unavailable() -> str:
    """Why no kernel can be inspected here: NVRTC, CUDA's headers or nvdisasm is missing; else empty."""
    try:
        version()
    except KernelError as error:
        return str(error)
    if headers() is None:
        return "none of CUDA's headers; pip install nvidia-cuda-runtime, or set CUDA_HOME"
    return "" if tool("nvdisasm") else "no nvdisasm; pip install triton, or install a CUDA toolkit"


def inspect_function(function: CudaFunction, architecture: Architecture) -> Resources:
    """What the kernel uses on ``architecture``; it is compiled, not run, and needs no GPU.

    Raises:
        DeviceError: the architecture is too old.
        KernelError: the kernel does not compile, or ``nvdisasm`` is missing or refuses it.
    """
    binary = compiled(function, architecture)
    registers = _counted(binary, r"Used (\d+) registers")
    accesses = [match.groups() for match in _ACCESS.finditer(_instructions(binary))]
    loads = [kind for word, kind in accesses if word.startswith("LD")]
    stores = [kind for word, kind in accesses if word.startswith("ST")]
    return Resources(
        registers=registers,
        spill_bytes=sum(
            _counted(binary, rf"(\d+) bytes spill {way}") for way in ("stores", "loads")
        ),
        stack_bytes=_counted(binary, r"(\d+) bytes stack frame"),
        shared_bytes=_counted(binary, r"(\d+) bytes smem|registers"),
        wide_loads=sum(_WIDE.search(kind) is not None for kind in loads),
        wide_stores=sum(_WIDE.search(kind) is not None for kind in stores),
        loads=len(loads),
        stores=len(stores),
    )


def _counted(binary: Binary, pattern: str) -> int:
    """The number that the assembler gives; 0 where the pattern matches without one."""
    found = [match[1] for match in re.finditer(pattern, binary.account) if match[1]]
    if not found and not re.search(pattern, binary.account):
        raise KernelError(
            f"the assembler accounts for each kernel it compiles; of {binary.name} it says "
            f"{binary.account!r}, without {pattern!r}; inspect for an architecture that NVRTC knows."
        )
    return int(found[0]) if found else 0


def _instructions(binary: Binary) -> str:
    """The disassembled instructions of this one kernel."""
    program = tool("nvdisasm")
    if program is None:
        raise KernelError(
            "instructions are read by nvdisasm, which is not on the path nor in the package triton; "
            "`pip install triton`, or install a CUDA toolkit."
        )
    with tempfile.TemporaryDirectory(prefix="qbench-inspect-") as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(binary.image)
        done = subprocess.run(  # noqa: S603 - NVIDIA's own program, on a file just written
            [str(program), "-c", str(path)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    _, _, text = done.stdout.partition(f".section\t.text.{binary.name},")
    if done.returncode or not text:
        raise KernelError(
            f"nvdisasm reads what NVRTC compiles; {program} ends with {done.returncode}: "
            f"{done.stderr.strip() or 'the kernel is not there'}; use one as new as NVRTC."
        )
    return text.partition(".section\t")[0]
