"""Where pytest finds its configuration, and the ways to start it."""

from __future__ import annotations

import shutil
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pytest_plugin.conftest import Checkout

ROOT = Path(__file__).parents[2]


def test_pytest_is_configured_by_tox_ini_alone(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.inipath == ROOT / "tox.ini"
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert "pytest" not in tools
    assert not any((ROOT / name).exists() for name in ("pytest.ini", "pytest.toml", ".pytest.ini"))


def test_a_bare_pytest_collects_cases_alone(checkout: Checkout) -> None:
    checkout.write("tests/test_own.py", "def test_own(): ...\n")
    run = checkout.pytest("--collect-only", "-qq", "--qbench-models=resnet")
    assert run.code == pytest.ExitCode.OK
    files = {
        line.partition(":")[0] for line in run.output.split("\n") if line.startswith(("c", "t"))
    }
    assert files == {
        f"cases/test_{kind}.py"
        for kind in ("formats", "integer_vit", "layers", "models", "quantizers")
    }


@pytest.mark.parametrize("autoload", ["", "1"], ids=["plugins loaded", "plugins not loaded"])
@pytest.mark.parametrize("start", ["module", "script"])
def test_pytest_starts_as_script_and_as_module(
    checkout: Checkout, start: str, autoload: str
) -> None:
    script = shutil.which("pytest", path=str(Path(sys.executable).parent))
    assert script
    command = {"module": (sys.executable, "-m", "pytest"), "script": (script,)}[start]
    arguments = (*checkout.grid, "-k", "int8-tensor-3", "--benchmark-json")
    done = checkout.real(*command, *arguments, PYTEST_DISABLE_PLUGIN_AUTOLOAD=autoload)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(checkout.run_folder().benchmarks()) == 1


def test_without_a_case_torch_is_not_imported(checkout: Checkout) -> None:
    checkout.write(
        "own/test_own.py", "import sys\n\ndef test_own():\n    assert 'torch' not in sys.modules\n"
    )
    done = checkout.real(sys.executable, "-m", "pytest", "own")
    assert done.returncode == 0, done.stdout + done.stderr
