"""Plugins as files and conftest.py: what they add to the grid, and what a broken one does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pytest_plugin.conftest import Checkout

#: A format in ten lines: its name, its width and its values.
TEN_LINES = """
from qbench_suite import CodebookFormat, hookimpl

VALUES = (-4.0, -1.0, -0.25, 0.0, 0.25, 1.0, 4.0)


@hookimpl
def qbench_register_formats(register):
    register(CodebookFormat(name="log3", bits=3, values=VALUES))
"""
#: A format whose round is filled in by each test.
ROUNDING = """
from dataclasses import dataclass

import torch

from qbench_suite import FloatFormat, hookimpl


@dataclass(frozen=True, kw_only=True)
class Wrong(FloatFormat):
    def round(self, x, *, noise=None):
        {body}

    def round_kernel(self, device):
        from qbench_suite import Format

        return Format.round_kernel(self, device)


@hookimpl
def qbench_register_formats(register):
    register(Wrong(name="wrong", exponent_bits=4, mantissa_bits=3))
"""
MISSPELT = (
    "from qbench_suite import hookimpl\n@hookimpl\ndef qbench_register_format(register): ...\n"
)
RAISES = (
    "from qbench_suite import hookimpl\n@hookimpl\ndef qbench_register_formats(register):\n"
    "    raise KeyError('inner')\n"
)
BROKEN = {
    "missing": (None, "Check the path"),
    "of another kind": ("plugin.txt", "named *.py"),
    "with a syntax error": ("def (:", "SyntaxError"),
    "that imports what is not there": ("import no_such_module", "Install no_such_module"),
    "that raises": ("raise OSError('no licence')", "no licence"),
    "that exits": ("raise SystemExit(3)", "SystemExit"),
    "whose hook raises": (RAISES, "inner"),
    "with a misspelt hook": (MISSPELT, "Did you mean qbench_register_formats"),
    "with an undecorated hook": (
        "def qbench_register_formats(register): ...\n",
        "decorated with @qbench_suite.hookimpl",
    ),
    "with a name that is taken": (
        TEN_LINES.replace("log3", "int4"),
        "is registered by qbench_formats",
    ),
    "that registers nonsense": (
        "from qbench_suite import hookimpl\n@hookimpl\ndef qbench_register_formats(register):\n"
        "    register(3)\n",
        "register() takes",
    ),
}


@pytest.fixture(scope="module")
def shared(new_checkout: Callable[[], Checkout]) -> Checkout:
    return new_checkout()


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_asked_for_by_name_must_load(shared: Checkout, kind: str) -> None:
    text, message = BROKEN[kind]
    name = "plugin.txt" if text == "plugin.txt" else f"broken_{list(BROKEN).index(kind)}.py"
    if text is not None:
        shared.write(name, text)
    run = shared.measure(f"--qbench-plugin={name}")
    assert run.code == pytest.ExitCode.USAGE_ERROR
    assert "Traceback" not in run.output
    assert "INTERNALERROR" not in run.output
    assert message in run.output
    assert name in run.output


def test_a_broken_conftest_that_is_read_late_is_an_error_too(checkout: Checkout) -> None:
    checkout.write("cases/test_a.py", "def test_it(format_case): ...\n")
    checkout.write("cases/zone/conftest.py", MISSPELT)
    checkout.write("cases/zone/test_z.py", "def test_it(): ...\n")
    run = checkout.pytest("cases/test_a.py", "cases/zone")
    assert run.code == pytest.ExitCode.USAGE_ERROR
    assert "Traceback" not in run.output
    assert "Did you mean qbench_register_formats" in run.output


@pytest.mark.parametrize("strict", [False, True])
def test_another_plugin_that_does_not_load_is_named_and_fatal_if_strict(
    checkout: Checkout, strict: bool
) -> None:
    checkout.write("conftest.py", RAISES)
    run = checkout.measure(*["--qbench-strict-plugins"] * strict)
    assert run.code == (pytest.ExitCode.USAGE_ERROR if strict else pytest.ExitCode.OK)
    assert "Traceback" not in run.output
    assert "KeyError: 'inner'" in run.output
    assert "conftest.py" in run.output


def test_plugins_can_be_named_in_the_ini_file(checkout: Checkout) -> None:
    checkout.write("log3.py", TEN_LINES)
    ini = checkout.folder / "tox.ini"
    ini.write_text(ini.read_text(encoding="utf-8") + "qbench_plugins = log3.py\n", encoding="utf-8")
    run = checkout.pytest("cases/test_formats.py", "--qbench-formats=log3")
    assert "5 passed" in run.last_line


def test_without_the_zoo_layer_cases_name_what_is_missing(shared: Checkout) -> None:
    run = shared.pytest(
        "cases/test_layers.py", "--qbench-disable-plugin=qbench_zoo", "--qbench-formats=fp8*"
    )
    assert run.code == pytest.ExitCode.USAGE_ERROR
    assert "Traceback" not in run.output
    assert "--qbench-models" in run.output


def test_without_the_zoo_the_rest_runs(shared: Checkout) -> None:
    run = shared.pytest(
        "cases",
        "--qbench-disable-plugin=qbench_zoo",
        "--qbench-quantizer-shape=4x64",
        "-m",
        "fp16",
    )
    assert run.code == pytest.ExitCode.OK
    assert "6 passed" in run.last_line


def test_a_format_of_ten_lines_is_in_every_kind_of_case(checkout: Checkout) -> None:
    checkout.write("log3.py", TEN_LINES)
    run = checkout.pytest(
        "cases",
        *checkout.grid[1:],
        "--qbench-plugin=log3.py",
        "--qbench-formats=log3,log3+truncate",
        "--qbench-quantizer-shape=4x64",
    )
    assert run.code == pytest.ExitCode.OK
    folder = checkout.run_folder()
    assert {name: len(folder.table(name)) for name in ("layers", "formats", "quantizers")} == {
        "layers": 12,
        "formats": 10,
        "quantizers": 4,
    }
    assert folder.table("formats").format_owner.str.startswith("log3.py").all()


@pytest.mark.parametrize("place", ["conftest.py", "cases/own/conftest.py"])
def test_a_conftest_registers_formats(checkout: Checkout, place: str) -> None:
    checkout.write(place, TEN_LINES)
    checkout.write(
        "cases/own/test_own.py",
        "def test_own(format_case, measure, gate):\n    gate(measure(format_case))\n",
    )
    run = checkout.pytest("cases/own", "--qbench-formats=log3", "-v")
    assert run.code == pytest.ExitCode.OK
    assert "cases/own/test_own.py::test_own[log3-normal] PASSED" in run.output
    (owner,) = set(checkout.run_folder().table("formats").format_owner)
    assert owner.startswith(str(checkout.folder / place))


@pytest.mark.parametrize(
    ("body", "outcome", "message"),
    [
        ("raise ZeroDivisionError('in round')", "error", "ZeroDivisionError: in round"),
        ("return x[..., :1]", "error", "wrong returned (4, 1) for (4, 9)"),
        ("return x * 1.01", "failed", "q · scale for a q of wrong"),
        ("return super().round(x) * float('nan')", "failed", ""),
        ("return None", "error", ""),
    ],
)
def test_a_format_that_rounds_wrong_fails_by_the_name_of_its_plugin(
    checkout: Checkout, body: str, outcome: str, message: str
) -> None:
    checkout.write("wrong.py", ROUNDING.format(body=body))
    run = checkout.measure("--qbench-plugin=wrong.py", "--qbench-formats=wrong,int8")
    assert run.code == pytest.ExitCode.TESTS_FAILED
    assert "6 failed, 6 passed" in run.last_line
    assert "Traceback" not in run.output
    assert "wrong.py" in run.output
    assert message in run.output
    table = checkout.run_folder().table()
    assert set(table[table.format == "wrong"].outcome) == {outcome}
    assert set(table[table.format == "int8"].outcome) == {"passed"}


MODELS = {
    "NaN weights": (
        "def build():\n    layer = nn.Linear(4, 4)\n    nn.init.constant_(layer.weight, math.nan)\n"
        "    return nn.Sequential(nn.Flatten(), layer)\n",
        "",
    ),
    "a forward that raises": (
        "class Broken(nn.Sequential):\n    def forward(self, x):\n        raise ValueError('inner')\n"
        "def build():\n    return Broken(nn.Linear(4, 4))\n",
        "ValueError: inner",
    ),
    "another input size": (
        "def build():\n    return nn.Sequential(nn.Conv2d(3, 1, 1))\n",
        "Mend its entry",
    ),
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_that_cannot_run_fails_alone(checkout: Checkout, kind: str) -> None:
    text, message = MODELS[kind]
    register = (
        "@hookimpl\ndef qbench_register_models(register):\n"
        "    register(ModelEntry(name='odd', build=build, input_size=(1, 2, 2)))\n"
    )
    imports = "import math\nfrom torch import nn\nfrom qbench_suite import ModelEntry, hookimpl\n"
    checkout.write("odd.py", imports + text + register)
    run = checkout.measure("--qbench-plugin=odd.py", "--qbench-models=odd,tiny")
    assert run.code in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}
    assert "Traceback" not in run.output
    assert "12 passed" in run.last_line or "16 passed" in run.last_line
    assert message in run.output
    assert len(checkout.run_folder().table()) == 16


def test_a_model_that_cannot_be_built_ends_pytest_by_its_name(checkout: Checkout) -> None:
    text = "from qbench_suite import ModelEntry, hookimpl\n@hookimpl\n"
    text += "def qbench_register_models(register):\n"
    checkout.write("odd.py", text + "    register(ModelEntry(name='odd', build=lambda: 1 / 0))\n")
    run = checkout.measure("--qbench-plugin=odd.py", "--qbench-models=odd,tiny")
    assert run.code == pytest.ExitCode.USAGE_ERROR
    assert "Traceback" not in run.output
    assert "'odd' of odd.py" in run.output


@pytest.mark.parametrize(
    "text", ["nonsense", "\x00\xff", "table,format,mode,what,min_sqnr_db\na,b\n"]
)
def test_a_gates_file_that_is_none_is_refused(checkout: Checkout, text: str) -> None:
    checkout.write("gates.csv", text)
    run = checkout.measure("--qbench-gates=gates.csv")
    assert run.code == pytest.ExitCode.USAGE_ERROR
    assert "Traceback" not in run.output
    assert "gates.csv" in run.output
