"""The page on integer audits: its code runs, and prints what the page says."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

from qbench_suite.cli import main

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "integer-audits.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_page_says_what_its_code_prints() -> None:
    names: dict[str, Any] = {}
    codes, outputs = blocks("python"), blocks("text")
    assert len(codes) == len(outputs) == 2
    for code, output in zip(codes, outputs, strict=True):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, names)
        assert _counted(printed.getvalue()) == _counted(output)


def _counted(text: str) -> str:
    """How many nodes a graph has depends on the version of torch."""
    return re.sub(r"((?:exported|compiled): \d+ floats in) \d+", r"\1 some", text)


@pytest.mark.parametrize("name", ["library", "model"])
def test_the_commands_that_it_names_exist(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["audit", name, "--help"])
    assert ended.value.code == 0
    assert f"qbench audit {name}" in capsys.readouterr().out
