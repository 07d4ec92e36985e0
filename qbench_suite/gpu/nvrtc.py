"""NVRTC: CUDA C++ to machine code, in this process and without a GPU."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from qbench_suite.errors import DeviceError, KernelError
from qbench_suite.gpu.architectures import OLDEST, Architecture
from qbench_suite.gpu.texts import include_folders
from qbench_suite.gpu.toolkit import headers

if TYPE_CHECKING:
    from qbench_suite.gpu.source import CudaFunction

#: Part of a cubin's key, unlike the folders of headers: those differ from machine to machine.
OPTIONS = (
    "-std=c++17",
    "-lineinfo",
    "--device-as-default-execution-space",
    "--ptxas-options=-v",  # its log tells registers and spills
)


@dataclass(frozen=True)
class Binary:
    """A compiled kernel: machine code, or PTX, which the driver compiles."""

    image: bytes
    #: What the kernel is called in there.
    name: str
    #: The assembler's account of it, a line on spills and one on registers; empty with PTX.
    account: str


@dataclass(frozen=True)
class Target:
    """What NVRTC compiles for: an architecture it knows, or PTX of an older one."""

    option: str

    @property
    def ptx(self) -> bool:
        """Whether it is PTX, for a device newer than NVRTC."""
        return self.option.startswith("compute_")


@functools.cache
def version() -> str:
    """Version of NVRTC, ``13.2``.

    Raises:
        KernelError: NVRTC cannot be loaded.
    """
    return ".".join(map(str, _ask("nvrtcVersion")))


def target_of(architecture: Architecture) -> Target:
    """What to compile for: machine code of the architecture, else PTX of the newest that is older.

    Raises:
        DeviceError: NVRTC, or the suite, knows nothing that old.
        KernelError: NVRTC cannot be loaded.
    """
    oldest, wanted = 10 * OLDEST[0] + OLDEST[1], 10 * architecture.major + architecture.minor
    known = [number for number in _ask("nvrtcGetSupportedArchs") if number >= oldest]
    if wanted in known:
        return Target(architecture.target)
    older = [number for number in known if number < wanted]
    if not older:
        raise DeviceError(
            f"CUDA kernels are compiled for sm_{min(known)} and newer; the device is "
            f"{architecture}; use a newer GPU."
        )
    return Target(f"compute_{max(older)}")


def compile_function(function: CudaFunction, target: Target) -> Binary:
    """The kernel, compiled for ``target``.

    Raises:
        KernelError: it does not compile; the message names file, line and NVRTC's first complaint.
    """
    nvrtc = _bindings()
    path = function.source.path
    program = _checked(
        nvrtc.nvrtcCreateProgram(path.read_bytes(), str(path).encode(), 0, [], []), function
    )
    expression = function.expression.encode()
    try:
        _checked(nvrtc.nvrtcAddNameExpression(program, expression), function)
        options = [option.encode() for option in _options(function, target)]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise _complaint(function, target, _log(nvrtc, program))
        name = _checked(nvrtc.nvrtcGetLoweredName(program, expression), function).decode()
        image = _text(nvrtc, program, "PTX" if target.ptx else "CUBIN")
        return Binary(image, name, _account(_log(nvrtc, program), name))
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _options(function: CudaFunction, target: Target) -> list[str]:
    folders = [*include_folders(function.source.path), *filter(None, [headers()])]
    return [f"--gpu-architecture={target.option}", *OPTIONS, *(f"-I{f}" for f in folders)]


def _text(nvrtc: ModuleType, program: object, what: str) -> bytes:
    """What NVRTC has under ``what``, whose length has to be asked for first."""
    _, length = getattr(nvrtc, f"nvrtcGet{what}Size")(program)
    # No bytes: Python shares those of length one, and NVRTC would write into everybody's.
    buffer = bytearray(length)
    getattr(nvrtc, f"nvrtcGet{what}")(program, buffer)
    return bytes(buffer)


def _log(nvrtc: ModuleType, program: object) -> list[str]:
    log = _text(nvrtc, program, "ProgramLog")
    return log.decode(errors="replace").strip("\0\n ").splitlines()


def _account(log: list[str], name: str) -> str:
    """What the log says of the kernel of that name: others of the source are compiled with it."""
    start = next((i for i, line in enumerate(log) if f"entry function '{name}'" in line), len(log))
    rest = log[start + 1 :]
    end = next((i for i, line in enumerate(rest) if "entry function" in line), len(rest))
    return "\n".join(line for line in rest[:end] if re.search(r"spill|registers", line))


def _complaint(function: CudaFunction, target: Target, log: list[str]) -> KernelError:
    """The error for a source that does not compile, with NVRTC's own first error."""
    first = next((line for line in log if re.search(r"\berror\b", line)), "no message")
    remedy = "correct the source, or the template arguments"
    if "open source file" in first and headers() is None:
        remedy = "install CUDA's headers (pip install nvidia-cuda-runtime), or set CUDA_HOME"
    return KernelError(
        f"a kernel is valid CUDA C++; {function.expression} of {function.source.path.name} does not "
        f"compile for {target.option}: {first.strip()}; {remedy}."
    )


def _checked(result: tuple[Any, ...], function: CudaFunction) -> Any:
    """What NVRTC returned beside its status; a status other than success is an error."""
    status, *values = result
    if status != type(status).NVRTC_SUCCESS:
        raise KernelError(
            f"NVRTC has one kernel for a name; {function.expression!r} of "
            f"{function.source.path.name} gives {status.name}; name a kernel of this source, with "
            "all its template arguments."
        )
    return values[0] if values else None


def _ask(name: str) -> tuple[Any, ...]:
    """Values of an NVRTC function without arguments; a list counts as several."""
    bindings = _bindings()
    try:
        status, *values = getattr(bindings, name)()
    except Exception as error:  # which exception depends on the version of cuda.bindings
        raise _missing(error) from error
    if status != bindings.nvrtcResult.NVRTC_SUCCESS:
        raise _missing(status.name)
    return tuple(values[0] if isinstance(values[0], list) else values)


def _bindings() -> ModuleType:
    try:
        from cuda.bindings import nvrtc
    except ImportError as error:
        raise _missing(error) from error
    module: ModuleType = nvrtc
    return module


def _missing(reason: object) -> KernelError:
    return KernelError(
        f"CUDA kernels are compiled by NVRTC through cuda.bindings; it cannot be loaded: {reason}; "
        "install a CUDA build of torch, which brings both, or "
        "`pip install cuda-bindings nvidia-cuda-nvrtc nvidia-cuda-runtime`."
    )
