"""The disassembly audit: every instruction of a compiled library."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from qbench_suite.compliance.integer.audit import FloatUse, IntegerAudit
from qbench_suite.compliance.integer.instructions import (
    called_float_function,
    machine_of,
    mnemonic_of,
    other_function,
)

_FORMAT = re.compile(r"file format (\S+)")
_SECTION = re.compile(r"Disassembly of section (\S+):")
_SYMBOL = re.compile(r"([0-9a-f]+) <(.+)>:")
_INSTRUCTION = re.compile(r"\s*([0-9a-f]+):\t(.+)")
#: Sections that the linker fills: jumps to other libraries, start and end.
_LINKERS = frozenset({".plt", ".plt.sec", ".plt.got", ".init", ".fini", "__TEXT,__stubs"})


def audit_disassembly(path: str | os.PathLike[str]) -> IntegerAudit:
    """Look at each instruction of the shared library ``path``: none computes with floats.

    It is disassembled by objdump, for x86-64 and aarch64. A finding is an instruction that adds,
    multiplies, compares, rounds or converts floats (SSE to AVX10, FMA, x87; NEON, SVE), or a call of a
    float function of the C library; moves, selections and bit operations on float registers are none.
    Left out are sections that the linker fills. Functions of other libraries that it uses, and that
    are not known to be of integers, are named in ``opaque``, and those that it holds in ``entered``.
    Code that is made while the program runs is not seen. Where objdump is missing, or cannot read the
    file, the audit was not run.
    """
    file = Path(path)
    objdump = shutil.which("objdump") or shutil.which("llvm-objdump")
    if not file.is_file():
        return _not_run(file, "there is no such file")
    if objdump is None:
        return _not_run(file, "objdump was not found; install binutils")
    command = [objdump, "--disassemble", "--no-show-raw-insn", str(file)]
    try:
        process = subprocess.Popen(  # noqa: S603 - the system's objdump, and no shell
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace"
        )
    except OSError as error:
        return _not_run(file, f"objdump does not start: {error}")
    # Line by line: the disassembly of a large library is larger than memory.
    with process:
        assert process.stdout is not None
        found = _Look(file)
        found.at(process.stdout)
    if process.returncode:
        return _not_run(file, "objdump cannot read it")
    return found.audit()


class _Look:
    """What was met in a disassembly."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._format = ""
        self._is_float: Callable[[str], bool] | None = None
        self._looked_at = 0
        #: By mnemonic, reason and symbol: the first address, and how many.
        self._found: dict[tuple[str, str, str], tuple[str, int]] = {}
        self._held: set[str] = set()
        self._others: Counter[str] = Counter()

    def at(self, lines: Iterable[str]) -> None:
        """Go through the lines that objdump prints."""
        section = symbol = ""
        for line in lines:
            if instruction := _INSTRUCTION.match(line):
                if self._is_float and section not in _LINKERS:
                    self._instruction(instruction[2].strip(), symbol, instruction[1])
            elif named := _SYMBOL.match(line):
                symbol = named[2]
                if section not in _LINKERS:
                    self._held.add(symbol.partition("@")[0])
            elif begun := _SECTION.match(line):
                section, symbol = begun[1], ""
            elif described := _FORMAT.search(line):
                self._format = described[1]
                self._is_float = machine_of(self._format)

    def _instruction(self, text: str, symbol: str, address: str) -> None:
        assert self._is_float is not None
        self._looked_at += 1
        mnemonic = mnemonic_of(text)
        why = "computes with floats" if self._is_float(mnemonic) else ""
        if not why and (function := called_float_function(text)):
            why = f"leads to the float function {function}"
        elif other := other_function(text):
            self._others[other] += 1
        if why:
            first, count = self._found.get((mnemonic, why, symbol), (address, 0))
            self._found[mnemonic, why, symbol] = (first, count + 1)

    def audit(self) -> IntegerAudit:
        """All that was found."""
        if self._is_float is None:
            known = self._format or "no format that objdump names"
            return _not_run(
                self._file, f"instructions of x86-64 and aarch64 are known, not {known}"
            )
        if not self._looked_at:
            return _not_run(self._file, "it holds no instruction")
        findings = tuple(
            FloatUse(mnemonic, why, f"{symbol} from {address} on", count)
            for (mnemonic, why, symbol), (address, count) in self._found.items()
        )
        return IntegerAudit(
            "disassembly",
            "instructions",
            self._looked_at,
            findings,
            opaque={name: n for name, n in self._others.items() if name not in self._held},
            entered=frozenset(self._held),
            file=self._file.name,
        )


def _not_run(file: Path, reason: str) -> IntegerAudit:
    return IntegerAudit("disassembly", "instructions", not_run=reason, file=file.name)
