"""The C++ compiler of the system, and how it is called."""

from __future__ import annotations

import functools
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: Asked for in this order where ``CXX`` names none.
_NAMES = ("g++", "clang++", "c++")
#: Seconds after which a compiler is taken to hang.
_TIMEOUT_S = 300


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler: how it is called, and what it says of itself."""

    command: tuple[str, ...]
    version: str

    def build(self, source: Path, target: Path, flags: tuple[str, ...], arch: str) -> str:
        """Compile ``source`` into the shared library ``target``; what went wrong, or nothing.

        ``arch``: the instruction set, and OpenMP where the compiler has it; empty for neither.
        """
        reason = ""
        for choice in _choices(arch):
            reason = self._run(*flags, *choice, "-shared", "-fPIC", str(source), "-o", str(target))
            if not reason:
                made = target.is_file()
                return "" if made else f"{self.command[0]}: the compiler made nothing"
        return reason

    def precompile(self, header: Path, target: Path, flags: tuple[str, ...]) -> str:
        """Make of ``header`` what ``build`` with the same ``flags`` reads sooner; as ``build``."""
        return self._run(*flags, "-fPIC", "-x", "c++-header", str(header), "-o", str(target))

    def _run(self, *arguments: str) -> str:
        try:
            done = subprocess.run(  # noqa: S603 - the user's own compiler, and no shell
                [*self.command, *arguments],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{self.command[0]}: {error}"
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            return f"{self.command[0]}: {next((line for line in said if 'error' in line), said[0])}"
        return ""


def _choices(arch: str) -> Iterator[tuple[str, ...]]:
    """Flags to try in turn: some compilers of ARM know ``native`` as a ``-mcpu``, Apple's no OpenMP."""
    if not arch:
        yield ()
        return
    for machine in (f"-march={arch}", f"-mcpu={arch}") if arch == "native" else (f"-march={arch}",):
        yield machine, "-fopenmp"
        yield (machine,)


@functools.lru_cache(maxsize=4)
def _compiler(named: str | None, search: str | None) -> Compiler | None:
    for name in (named,) if named else _NAMES:
        # A path may hold spaces; otherwise what follows one is an argument.
        words = (name,) if shutil.which(name, path=search) else tuple(shlex.split(name))
        path = shutil.which(words[0], path=search) if words else None
        if path is None:
            continue
        try:
            done = subprocess.run(  # noqa: S603
                [path, *words[1:], "--version"],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=30,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            continue
        return Compiler((path, *words[1:]), (done.stdout.strip().splitlines() or [path])[0])
    return None


def find_compiler() -> Compiler | None:
    """The compiler that ``CXX`` names, else the first of g++, clang++ and c++; None without any."""
    return _compiler(os.environ.get("CXX"), os.environ.get("PATH"))


@functools.cache
def processor() -> str:
    """The instruction sets of this processor: what ``-march=native`` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "flags", "Features", "CPU part")
    seen = dict.fromkeys(line for line in lines if line.startswith(wanted))
    return "\n".join([platform.machine(), *seen])
