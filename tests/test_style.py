"""The budget: modules and functions stay small, everything is annotated and documented."""

from __future__ import annotations

import ast
import re
import statistics
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("qbench_suite", "plugins", "cases")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in FILES]

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(text(name))


def functions(name: str) -> Iterator[Function]:
    return (node for node in ast.walk(tree(name)) if isinstance(node, Function))


def body_lines(function: Function) -> int:
    """Lines of a function below its signature and docstring."""
    statements = function.body
    if ast.get_docstring(function) is not None:
        statements = statements[1:]
    if not statements:
        return 0
    end = statements[-1].end_lineno
    assert end is not None
    return end - statements[0].lineno + 1


def public_definitions(
    node: ast.Module | ast.ClassDef, prefix: str = ""
) -> Iterator[tuple[str, Function | ast.ClassDef, bool]]:
    """(dotted name, definition, whether it may override what is documented) of what is public."""
    for child in node.body:
        if isinstance(child, Function | ast.ClassDef) and not child.name.startswith("_"):
            method = isinstance(node, ast.ClassDef) and bool(node.bases)
            may_override = method or child.name.startswith("pytest_")
            yield f"{prefix}{child.name}", child, may_override
            if isinstance(child, ast.ClassDef):
                yield from public_definitions(child, f"{prefix}{child.name}.")


@pytest.mark.parametrize("name", NAMES)
def test_module_has_at_most_300_lines(name: str) -> None:
    assert len(text(name).splitlines()) <= 300


@pytest.mark.parametrize("folder", FOLDERS)
def test_median_module_has_at_most_120_lines(folder: str) -> None:
    lengths = [len(text(name).splitlines()) for name in NAMES if name.startswith(folder)]
    assert statistics.median(lengths) <= 120


@pytest.mark.parametrize("name", NAMES)
def test_function_body_has_at_most_40_lines(name: str) -> None:
    long = {f.name: body_lines(f) for f in functions(name) if body_lines(f) > 40}
    assert not long


@pytest.mark.parametrize("folder", FOLDERS)
def test_median_function_body_has_at_most_8_lines(folder: str) -> None:
    names = [name for name in NAMES if name.startswith(folder)]
    assert statistics.median(body_lines(f) for name in names for f in functions(name)) <= 8


@pytest.mark.parametrize("name", NAMES)
def test_module_is_named_after_what_it_holds(name: str) -> None:
    assert Path(name).stem not in {"utils", "util", "helpers", "helper", "common", "misc", "tools"}


@pytest.mark.parametrize("name", NAMES)
def test_module_is_documented_and_nothing_is_left_to_do(name: str) -> None:
    assert ast.get_docstring(tree(name))
    assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", text(name))


@pytest.mark.parametrize("name", NAMES)
def test_everything_public_is_documented(name: str) -> None:
    plain = [
        dotted
        for dotted, definition, may_override in public_definitions(tree(name))
        if not may_override and ast.get_docstring(definition) is None
    ]
    assert not plain


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("cases")])
def test_every_function_is_annotated(name: str) -> None:
    for function in functions(name):
        arguments = function.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        bare = [a.arg for a in named if a.annotation is None and a.arg not in ("self", "cls")]
        assert not bare, f"{function.name}: {bare}"
        assert function.returns is not None, function.name


def test_tests_mirror_the_tree() -> None:
    mirrored = {"engine", "results", "metrics", "compliance", "timing", "layers", "formats"}
    for folder in mirrored:
        assert (ROOT / "qbench_suite" / folder).is_dir()
        assert list((ROOT / "tests" / folder).glob("test_*.py"))
