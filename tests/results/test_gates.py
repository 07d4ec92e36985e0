"""Gates: the first line that matches holds; a line that cannot be read is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from qbench_suite import ResultsError
from qbench_suite.results import Gates

HEADING = "table,format,mode,what,min_sqnr_db"


def read(tmp_path: Path, *lines: str) -> Gates:
    file = tmp_path / "gates.csv"
    file.write_text("\n".join(lines), encoding="utf-8")
    return Gates.read(file)


def test_first_line_that_matches_holds(tmp_path: Path) -> None:
    gates = read(
        tmp_path,
        "# a comment",
        HEADING,
        "layers,int8,*,Linear,30",
        "# another",
        "layers,int*, chunk* ,*, 20.5 ",
        "",
        "layers,*,*,*,-inf",
    )
    assert gates.min_sqnr_db("layers", "int8", "chunk4", "Linear") == 30
    assert gates.min_sqnr_db("layers", "int8", "chunk4", "ReLU") == 20.5
    assert gates.min_sqnr_db("layers", "INT8", "chunk4", "ReLU") == float("-inf")
    assert gates.min_sqnr_db("formats", "int8", "tensor", "normal") is None


@pytest.mark.parametrize(
    "line", ["layers,int8,tensor,Linear,good", "layers,int8,tensor", "layers,int8,tensor,Linear,"]
)
def test_line_that_is_no_gate_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(ResultsError, match="Correct that line") as caught:
        read(tmp_path, HEADING, "layers,*,*,*,1", line)
    assert line.split(",")[2] in str(caught.value)
    assert "gates.csv" in str(caught.value)


@pytest.mark.parametrize(
    "lines",
    [
        ["table,format,min_sqnr_db", "layers,int8,3"],
        ["layers,int8,tensor,Linear,30"],
        ["min_sqnr_db,what,mode,format,table", "7,*,*,fp8,formats"],
        [],
    ],
)
def test_table_begins_with_its_heading(tmp_path: Path, lines: list[str]) -> None:
    with pytest.raises(ResultsError, match=HEADING):
        read(tmp_path, *lines)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "mine.csv"
    if content:
        file.write_bytes(content)
    with pytest.raises(ResultsError, match=r"mine\.csv"):
        Gates.read(file)


def test_table_without_lines_has_no_gates(tmp_path: Path) -> None:
    assert read(tmp_path, HEADING).min_sqnr_db("layers", "a", "b", "c") is None


def test_gates_that_ship_can_be_read() -> None:
    assert Gates.read().min_sqnr_db("no such table", "a", "b", "c") is None
