"""Runs pytest in forks of a process that has imported torch, so that each run takes a second.

A line on stdin, ``{"arguments": […], "folder": …, "environment": {…}, "output": path, "status": path,
"file_limit": bytes or null}``, starts a run; its process id comes back on stdout. ``status`` is
written, as a number, when the run has ended.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import pandas.io.parquet  # noqa: F401
import pytest
import pytest_benchmark.plugin  # noqa: F401
import rich.progress  # noqa: F401
import timm  # noqa: F401
import torchvision  # noqa: F401

import qbench_suite.engine
import qbench_suite.results  # noqa: F401


def run(request: dict[str, Any]) -> int:
    """Become the run: its output, folder, environment and arguments."""
    os.setpgid(0, 0)
    # Ignored where the tests are a shell's background job, and a run inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    output = os.open(request["output"], os.O_RDWR | os.O_CREAT | os.O_NOCTTY | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    sys.path[0] = ""
    sys.argv = ["pytest", *request["arguments"]]
    if request["file_limit"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_limit"], resource.RLIM_INFINITY))
    code = int(pytest.main(request["arguments"]))
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def run_and_wait(request: dict[str, Any], pid_to: int) -> None:
    """Run in a child, say its process id, and write how it ended."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = run(request)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.write(pid_to, b"%d\n" % child)
    os.close(pid_to)
    _, status = os.waitpid(child, 0)
    partial = Path(request["status"] + ".part")
    partial.write_text(str(os.waitstatus_to_exitcode(status)), encoding="utf-8")
    partial.rename(request["status"])


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        waiter = os.fork()
        if waiter == 0:
            if os.fork() == 0:
                run_and_wait(request, 1)
            os._exit(0)
        os.waitpid(waiter, 0)


if __name__ == "__main__":
    main()
