"""The public names: complete, sorted, importable, and cheap until used."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import qbench_suite

SOURCE = Path(str(qbench_suite.__file__))


def imports_for_type_checkers() -> dict[str, str]:
    """Public name → module, as the ``TYPE_CHECKING`` block of the package has it."""
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    homes = {}
    for statement in block.body:
        assert isinstance(statement, ast.ImportFrom)
        for alias in statement.names:
            assert alias.asname == alias.name, "a name is re-exported under itself"
            homes[alias.name] = str(statement.module).removeprefix("qbench_suite.")
    return homes


def test_all_is_sorted_and_holds_every_public_name() -> None:
    assert qbench_suite.__all__ == sorted({"__version__", *imports_for_type_checkers()})
    assert dir(qbench_suite) == qbench_suite.__all__


def test_lazy_names_are_those_that_type_checkers_see() -> None:
    assert imports_for_type_checkers() == qbench_suite._HOME


@pytest.mark.parametrize("name", qbench_suite.__all__)
def test_name_imports_and_is_the_one_of_its_module(name: str) -> None:
    found = getattr(qbench_suite, name)
    if name != "__version__":
        home = importlib.import_module(f"qbench_suite.{qbench_suite._HOME[name]}")
        assert found is getattr(home, name)


@pytest.mark.parametrize("name", qbench_suite.__all__)
def test_public_class_or_function_is_documented(name: str) -> None:
    found = getattr(qbench_suite, name)
    if isinstance(found, type) or callable(found):
        assert found.__doc__, f"{name} has no docstring"


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'QuantizeEverything'"):
        _ = qbench_suite.QuantizeEverything


@pytest.mark.parametrize(
    "use",
    [
        "import qbench_suite",
        "from qbench_suite import hookimpl, Manager, ModelEntry, DatasetEntry, Family, QBenchError",
        "import qbench_suite; qbench_suite.Manager()",
        "import qbench_suite.cli; qbench_suite.cli._parser()",
    ],
)
def test_what_does_not_compute_does_not_import_torch(use: str) -> None:
    check = f"import sys; {use}; assert not {{'torch', 'pandas', 'timm'}} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", check], check=True, cwd=SOURCE.parent.parent)
