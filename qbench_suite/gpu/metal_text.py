"""Metal sources as text: the parameters of a kernel, and what a host compiler is given instead."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qbench_suite.errors import KernelError
from qbench_suite.gpu.texts import QUOTED

#: Value of a macro: a number, a name, or a type.
Constant = bool | int | float | str

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_KERNEL = r"(?:\bkernel\s+void|\[\[\s*kernel\s*\]\]\s*void)\s+{name}\s*\("
_ATTRIBUTE = re.compile(r"\[\[\s*(\w+)\s*(?:\(\s*(\d+)\s*\))?\s*\]\]")
#: ``threadgroup float partial[32];``, and not ``threadgroup float* where = partial;``.
_ARRAY = re.compile(
    r"\bthreadgroup\s+([\w:<>]+(?:\s+[\w:<>]+)*?)\s+(\w+)\s*((?:\[[^\]\n]+\]\s*)+);"
)


@dataclass(frozen=True)
class Parameter:
    """What a parameter of a kernel is given: the ``buffer`` of that number, or what ``attribute`` says."""

    attribute: str
    buffer: int


def whole(path: Path, constants: Mapping[str, Constant]) -> str:
    """The source behind its macros, with the files that it includes with quotes in their places.

    Raises:
        OSError: one of the files cannot be read.
    """
    # Ahead of the macros, which would change the names in Metal's own headers.
    lines = ["#include <metal_stdlib>\n"]
    lines += [f"#define {name} {_literal(value)}\n" for name, value in constants.items()]
    return "".join(lines) + _inlined(path, set())


def _inlined(path: Path, seen: set[Path]) -> str:
    """Text of a file, each file but once; messages of a compiler name file and line all the same."""
    seen.add(path.resolve())
    lines = [f'#line 1 "{path.name}"']
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        quoted = QUOTED.match(line)
        if quoted is None:
            lines.append(line)
            continue
        other = path.parent / quoted[1]
        if other.resolve() not in seen:
            lines.append(_inlined(other, seen))
        lines.append(f'#line {number + 1} "{path.name}"')
    return "\n".join(lines) + "\n"


def _literal(value: Constant) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value!r}f" if isinstance(value, float) else str(value)


def parameters(text: str, name: str, file: str) -> list[Parameter]:
    """The parameters of the kernel ``name``, in order.

    Raises:
        KernelError: there is no such kernel, or a parameter has no attribute.
    """
    plain = _COMMENT.sub(" ", text)
    start = re.search(_KERNEL.format(name=re.escape(name)), plain)
    if start is None:
        known = re.findall(_KERNEL.format(name=r"(\w+)"), plain)
        raise KernelError(
            f"a kernel is named as its source has it; {file} has no kernel {name!r}; "
            f"choose one of {', '.join(known) or 'none'}."
        )
    return [_parameter(word, name, file) for word in _split(plain[start.end() :])]


def _split(text: str) -> list[str]:
    """The words between commas, up to the parenthesis that closes."""
    depth, words = 0, [""]
    for letter in text:
        depth += (letter in "([{<") - (letter in ")]}>")
        if depth < 0:
            break
        if letter == "," and depth == 0:
            words.append("")
        else:
            words[-1] += letter
    return [word for word in words if word.strip()]


def _parameter(text: str, name: str, file: str) -> Parameter:
    found = _ATTRIBUTE.search(text)
    if found is None:
        raise KernelError(
            f"each parameter of a Metal kernel has an attribute; `{' '.join(text.split())}` of {name} "
            f"in {file} has none; add [[buffer(n)]], or [[thread_position_in_grid]] and the like."
        )
    return Parameter(found[1], int(found[2] or 0))


def for_host(text: str) -> str:
    """``text`` with arrays in threadgroup memory declared by a macro, on the same lines."""
    return _ARRAY.sub(lambda found: f"QB_THREADGROUP({found[1]}, {found[2]}, {found[3]});", text)
