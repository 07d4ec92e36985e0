"""The command: listings, doctor, exit statuses, and pipes that close."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qbench_suite.cli import main
from qbench_suite.results import columns_markdown

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("plugins", "qbench_formats"),
        ("formats", "fp8_e4m3"),
        ("modes", "chunk<N>"),
        ("layers", "QuantLinear"),
        ("models", "digits"),
        ("datasets", "digits"),
    ],
)
def test_list_shows_what_plugins_provide(
    capsys: pytest.CaptureFixture[str], kind: str, expected: str
) -> None:
    assert main(["list", kind]) == 0
    out = capsys.readouterr().out
    assert expected in out
    assert all(line == line.rstrip() for line in out.splitlines())


def test_list_columns_is_the_text_of_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "columns"]) == 0
    assert capsys.readouterr().out == columns_markdown() + "\n"


def test_list_cases_of_a_selection(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--models",
        "vit",
        "--formats",
        "fp8_e4m3",
        "--modes",
        "tensor",
        "--layers",
        "head",
    ]
    assert main(["list", "cases", *arguments]) == 0
    out = capsys.readouterr().out.split()
    assert "vit-fp8_e4m3-tensor-head" in out
    assert "fp8_e4m3-normal" in out
    assert "fp8_e4m3-tensor" in out


@pytest.mark.parametrize(
    ("arguments", "offered"),
    [
        (["list", "formats", "--formats", "fp8_e4m4"], "Did you mean fp8_e4m3"),
        (["list", "modes", "--modes", "tensors"], "Did you mean tensor"),
        (["list", "cases", "--models", "vitt"], "Did you mean vit"),
    ],
)
def test_unknown_filter_is_a_mistake_with_a_near_miss(
    capsys: pytest.CaptureFixture[str], arguments: list[str], offered: str
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert offered in captured.err
    assert not captured.out


@pytest.mark.parametrize("arguments", [[], ["list"], ["list", "nonsense"], ["no-such-command"]])
def test_wrong_command_line_shows_the_usage(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: qbench" in capsys.readouterr().err


def test_help_shows_the_commands_of_plugins(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert all(command in out for command in ("list", "doctor", "zoo"))


def test_doctor_of_a_sound_installation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    assert "plugin qbench_formats" in capsys.readouterr().out


def test_doctor_names_a_broken_plugin_and_says_what_to_do(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "broken.py"
    file.write_text("import no_such_library\n")
    assert main(["doctor", "--plugin", str(file)]) == 1
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("!")]
    assert str(file) in line
    assert "Install no_such_library" in line
    assert main(["doctor", "--plugin", str(file), "--disable-plugin", str(file)]) == 0


def test_plugin_file_is_listed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from qbench_suite import CodebookFormat, hookimpl\n"
        "@hookimpl\n"
        "def qbench_register_formats(register):\n"
        "    register(CodebookFormat(name='signs', bits=1, values=(-1.0, 1.0)))\n"
    )
    assert main(["list", "formats", "--formats", "signs", "--plugin", str(file)]) == 0
    assert f"{file} (local)" in capsys.readouterr().out


def test_disabled_plugin_is_not_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "plugins", "--disable-plugin", "qbench_zoo"]) == 0
    assert "qbench_zoo" not in capsys.readouterr().out


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("kind", ["columns", "formats"])
def test_reader_may_close_the_pipe_early(kind: str, unbuffered: str) -> None:
    script = f"{sys.executable} -m qbench_suite.cli list {kind} | (exec 0<&-; sleep 0.1); "
    done = subprocess.run(
        ["bash", "-c", script + "echo ${PIPESTATUS[0]}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    assert done.stdout.strip() == "0"
    assert done.stderr == ""
