"""A checkout in small: the suite's own tox.ini and cases, and a model of three layers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'plugins'}",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
    # Kernels run uncompiled, with the same bits: compiling one takes a second.
    "TORCHDYNAMO_DISABLE": "1",
    "COLUMNS": "120",
    # Plugins that the machine happens to have cost each run a second.
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
}
#: A plugin with a model whose cases take milliseconds.
TINY = """
from torch import nn

from qbench_suite import ModelEntry, hookimpl


def build():
    import torch

    torch.manual_seed(0)
    with open("loads.txt", "a") as loads:
        loads.write("tiny\\n")
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)).eval()


@hookimpl
def qbench_register_models(register):
    register(ModelEntry(name="tiny", build=build, input_size=(1, 8, 8), num_classes=4))
"""
#: 3 layers x 2 formats x 2 modes.
GRID = (
    "cases/test_layers.py",
    "--qbench-plugin=tiny.py",
    "--qbench-models=tiny",
    "--qbench-formats=fp8_e4m3,int8",
    "--qbench-modes=tensor,channel",
    "--qbench-batch=2",
    "--qbench-rounds=2",
)


def _wait_until(condition: Callable[[], Any], seconds: float = 90) -> Any:
    """What ``condition()`` gives once it is true; raises ``TimeoutError`` where it never is."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s")
        time.sleep(0.02)
    return result


@dataclass
class Running:
    """A run of pytest that goes on."""

    pid: int
    output_path: Path
    status_path: Path

    def kill(self, number: signal.Signals) -> int:
        os.kill(self.pid, number)
        return self.code

    @property
    def code(self) -> int:
        """The exit code, once there is one; minus the signal where one ended the process."""
        _wait_until(self.status_path.exists)
        return int(self.status_path.read_text(encoding="utf-8"))

    @property
    def output(self) -> str:
        """Everything it wrote, once it has ended."""
        assert self.code is not None
        return self.output_path.read_text(encoding="utf-8", errors="replace")

    @property
    def last_line(self) -> str:
        """pytest's count of outcomes."""
        return self.output.strip().splitlines()[-1]


@dataclass
class RunFolder:
    """What a run wrote."""

    path: Path

    def events(self, event: str) -> list[dict[str, Any]]:
        """Journal lines of one kind, whole ones, in order."""
        journals = sorted(self.path.glob("journal-*.jsonl"), key=lambda path: path.stat().st_mtime)
        lines = [line for j in journals for line in j.read_text(encoding="utf-8").split("\n")[:-1]]
        return [record for line in lines if (record := json.loads(line))["event"] == event]

    def cases(self, event: str) -> list[str]:
        """Keys of the cases that were ``started`` or ``finished``, in order."""
        return [record["case"] for record in self.events(event)]

    def table(self, name: str = "layers") -> pd.DataFrame:
        written = pd.read_parquet(self.path / f"{name}.parquet")
        assert len(written) == len(pd.read_csv(self.path / f"{name}.csv"))
        return written

    def benchmarks(self) -> list[dict[str, Any]]:
        return _read_benchmarks(self.path / "benchmark.json")


def _read_benchmarks(path: Path) -> list[dict[str, Any]]:
    """The benchmarks of a file that is JSON to the letter: no NaN, no Infinity."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{path} holds {name}")

    text = path.read_text(encoding="utf-8")
    entries: list[dict[str, Any]] = json.loads(text, parse_constant=refuse)["benchmarks"]
    return entries


class Checkout:
    """A folder with the suite's tox.ini and cases, where runs are started."""

    root = ROOT
    grid = GRID

    def __init__(self, folder: Path, server: subprocess.Popen[str]) -> None:
        self.folder = folder
        self._server = server
        self._started = 0
        shutil.copytree(ROOT / "cases", folder / "cases", ignore=shutil.ignore_patterns("__*"))
        shutil.copy(ROOT / "tox.ini", folder)
        self.write("tiny.py", TINY)

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def start(
        self,
        *arguments: str,
        environment: dict[str, str] | None = None,
        output: Path | None = None,
        file_limit: int | None = None,
    ) -> Running:
        """Start pytest with ``arguments`` in this folder."""
        self._started += 1
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        output = output or logs / f"{self._started}.out"
        status = logs / f"{self._started}.status"
        request = {
            "arguments": [*arguments],
            "folder": str(self.folder),
            "environment": environment or {},
            "output": str(output),
            "status": str(status),
            "file_limit": file_limit,
        }
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return Running(int(self._server.stdout.readline()), output, status)

    def pytest(self, *arguments: str, **options: Any) -> Running:
        """Run pytest to its end; shown where the test fails."""
        run = self.start(*arguments, **options)
        print("$ pytest", *arguments)
        print(run.output)
        return run

    def measure(self, *arguments: str, **options: Any) -> Running:
        """Run the grid of twelve cases."""
        return self.pytest(*GRID, *arguments, **options)

    def runs(self) -> list[RunFolder]:
        """The runs in ``results/``, by name."""
        return [RunFolder(path) for path in sorted((self.folder / "results").glob("*/"))]

    def run_folder(self, name: str = "") -> RunFolder:
        """The run of that name; without one the only run there is."""
        if name:
            return RunFolder(self.folder / "results" / name)
        (run,) = self.runs()
        return run

    def loads(self) -> list[str]:
        """Models that were built here, in order."""
        return (self.folder / "loads.txt").read_text(encoding="utf-8").split()

    def real(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run ``command`` in a process of its own, as a user does."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env=os.environ | ENVIRONMENT | environment,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="session")
def server() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(Path(__file__).parent / "preloaded.py")]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | ENVIRONMENT,
    ) as process:
        yield process
        assert process.stdin
        process.stdin.close()


@pytest.fixture(scope="session")
def new_checkout(
    server: subprocess.Popen[str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], Checkout]:
    """Makes a checkout for tests that share it."""
    return lambda: Checkout(tmp_path_factory.mktemp("checkout"), server)


@pytest.fixture
def checkout(new_checkout: Callable[[], Checkout]) -> Checkout:
    """A checkout for one test."""
    return new_checkout()


@pytest.fixture(scope="session")
def read_benchmarks() -> Callable[[Path], list[dict[str, Any]]]:
    """Reads a benchmark JSON strictly."""
    return _read_benchmarks


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., Any]:
    """Waits for a condition, for at most some seconds."""
    return _wait_until
