"""What machine and which libraries rows were measured with."""

from __future__ import annotations

import datetime
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from qbench_suite.engine.settings import Settings
from qbench_suite.manager import Manager
from qbench_suite.scaling import compiling
from qbench_suite.timing import allocator


def version_of(distribution: str) -> str:
    """Installed version of a distribution; empty where it is absent."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def processor() -> str:
    """Name of the processor, as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def machine_name(device: torch.device) -> str:
    """The GPU where the device is one, else the processor with its number of CPUs."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor()} x{os.cpu_count()}"


def machine_info(manager: Manager, settings: Settings) -> dict[str, Any]:
    """Facts for the journal's header and the benchmark JSON, plugins' own included; plain JSON types."""
    from qbench_suite import __version__

    device = torch.device(settings.device)
    info: dict[str, Any] = {
        "started_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "suite_version": __version__,
        "torch_version": torch.__version__,
        "timm_version": version_of("timm"),
        "python_version": platform.python_version(),
        "machine": machine_name(device),
        "device": str(device),
        "seed": settings.seed,
        "batch": settings.batch,
        "dataset": settings.dataset or "",
        "roles": dict(settings.roles),
        "images": settings.images,
        "eval_batch": settings.eval_batch,
        "layerwise": settings.layerwise,
        "integer_calibration": settings.integer_calibration,
        "compliance": str(settings.compliance or ""),
        "threads": torch.get_num_threads(),
        "allocator": allocator(),
        "compiler": compiling.compiler(),
        "plugins": "; ".join(sorted(str(plugin.owner) for plugin in manager.plugins)),
    }
    manager.call("qbench_machine_info", info=info)
    return {name: _plain(value) for name, value in info.items()}


def _plain(value: Any) -> Any:
    """``value`` if JSON can hold it, else its text: a plugin's slip must not end the run."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return str(value)
    return value
