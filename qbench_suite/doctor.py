"""Doctor: what the suite finds on this machine, and what keeps it from more."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import metadata

from qbench_suite.manager import Manager


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    what: str
    state: str
    #: ``ok``, ``note`` (works without it) or ``problem``.
    grade: str = "ok"
    #: Traceback of a problem, for ``qbench doctor -v``.
    trace: str = ""


_LIBRARIES = ("torch", "torchvision", "timm", "pytest", "pytest-benchmark", "pandas", "pyarrow")


def examine(manager: Manager) -> list[Finding]:
    """Versions, devices, compiler, layers that are skipped, plugins; in that order."""
    findings = [Finding("python", platform.python_version())]
    findings += [_library(name) for name in ("qbench-suite", *_LIBRARIES)]
    findings += _devices()
    findings += [_compiler(), _kernels()]
    findings += _unavailable(manager)
    findings += [
        Finding(f"plugin {plugin.owner}", ", ".join(plugin.hooks) or "no hooks")
        for plugin in sorted(manager.plugins, key=lambda plugin: str(plugin.owner))
    ]
    findings += [
        Finding(
            f"plugin {problem.plugin}",
            f"{problem.reason} {problem.remedy}",
            "problem",
            problem.trace,
        )
        for problem in manager.problems
    ]
    return findings


def _library(name: str) -> Finding:
    try:
        return Finding(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        if name == "qbench-suite":
            return Finding(name, "runs from a checkout that is not installed", "note")
        return Finding(name, f"absent; pip install {name}", "note")


def _devices() -> list[Finding]:
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    found = [Finding("cpu", f"{torch.get_num_threads()} threads, {capability}")]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        found.append(
            Finding(
                f"cuda:{index}",
                f"{properties.name}, sm_{properties.major}{properties.minor}, {memory:.0f} GiB",
            )
        )
    if len(found) == 1:
        found.append(Finding("cuda", "no device; cases run on the CPU", "note"))
    return found


def _unavailable(manager: Manager) -> list[Finding]:
    """Linear layers and norm kernels of the default grid whose cases are skipped on the CPU."""
    import torch

    cpu = torch.device("cpu")
    reasons = [(f"linear {e.name}", e.unavailable(cpu)) for e in manager.linears if e.default]
    reasons += [
        (f"norm kernels of {k.provider}", k.unavailable(cpu))
        for k in manager.norm_kernels
        if k.default
    ]
    return [Finding(what, why, "note") for what, why in dict.fromkeys(reasons) if why]


def _compiler() -> Finding:
    from qbench_suite.scaling.compiling import compiler

    path = compiler()
    if path:
        return Finding("C++ compiler", path)
    remedy = "none; kernels run uncompiled, with the same bits but slower; install g++ or clang++"
    return Finding("C++ compiler", remedy, "note")


def _kernels() -> Finding:
    import torch

    from qbench_suite.errors import KernelError
    from qbench_suite.gpu import nvrtc, toolkit

    try:
        said = f"NVRTC {nvrtc.version()} compiles them"
    except KernelError as error:
        return Finding("CUDA kernels", str(error), "note")
    if toolkit.headers() is None:
        said += ", without CUDA's headers; pip install nvidia-cuda-runtime, or set CUDA_HOME"
        return Finding("CUDA kernels", said, "note")
    if not torch.cuda.is_available():
        return Finding("CUDA kernels", f"{said}; no device runs them", "note")
    return Finding("CUDA kernels", said)
