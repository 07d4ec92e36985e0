"""``qbench report``: a run by name, by path or the latest, and what is no run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qbench_suite.cli import main
from qbench_suite.results import Journal, ModelRow


def write_run(folder: Path, age: float) -> Path:
    journal = Journal(folder, {"run": folder.name})
    row = ModelRow(case="m-p", model="m", policy="p", outcome="passed", top1=70.0, weight_bits=4.0)
    journal.finished("models/m-p", "models", row.to_json())
    journal.close()
    for file in folder.glob("journal-*"):
        os.utime(file, (age, age))
    return folder


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two runs, ``new`` the latest, below the working folder."""
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "results" / "new", 2000)
    write_run(tmp_path / "results" / "old", 1000)
    return tmp_path / "results"


@pytest.mark.parametrize(
    ("name", "run"), [("latest", "new"), ("old", "old"), ("results/old", "old")]
)
def test_a_run_is_found(
    results: Path, name: str, run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", name]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out == [
        f"1 comparison_report.txt under {Path('results', run)}",
        str(Path("results", run, "report.html")),
    ]
    assert [p.parent.name for p in results.rglob("report.html")] == [run]


def test_runs_may_lie_elsewhere(results: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other" / "third", 1)
    assert main(["report", "latest", "--results", "other"]) == 0
    assert (other / "report.html").is_file()


def test_the_page_may_be_written_elsewhere(results: Path, tmp_path: Path) -> None:
    assert main(["report", "old", "--out", "deep/page.html"]) == 0
    assert (
        (tmp_path / "deep" / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    )
    assert not list(results.rglob("report.html"))
    assert not list(results.rglob("*.txt"))


@pytest.mark.parametrize("name", ["absent", "results", ""])
def test_what_is_no_run_is_told_without_a_traceback(
    results: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", name]) == 2
    error = capsys.readouterr().err
    assert "takes a run that has a journal" in error
    assert "old, new" in error


def test_a_folder_without_runs_has_no_latest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", "latest"]) == 2
    assert "Runs under results: none" in capsys.readouterr().err


def test_without_the_libraries_a_line_says_how(
    results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "jinja2" else find(name, *a)
    )
    assert main(["report", "old"]) == 0
    assert "report.html needs jinja2: pip install" in capsys.readouterr().err
    assert main(["report", "old", "--out", "page.html"]) == 2
    assert "is made with jinja2" in capsys.readouterr().err


def test_the_page_is_opened_when_asked(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    main(["report", "old"])
    assert opened == []
    main(["report", "old", "--open", "yes"])
    assert opened == [(results / "old" / "report.html").as_uri()]


@pytest.mark.parametrize("out", [[], ["--out", "page.html"]])
def test_a_run_without_a_row_is_told(
    results: Path, tmp_path: Path, out: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    journal = Journal(results / "killed", {"run": "killed"})
    journal.started("models/m-p")
    journal.close()
    assert main(["report", "killed", *out]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "no case has been measured yet in" in captured.err
    assert "1 case began and did not end: models/m-p" in captured.err
    assert not list(tmp_path.rglob("*.html"))


def test_broken_lines_and_cases_cut_off_are_told(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file,) = (results / "old").glob("journal-*.jsonl")
    starts = "".join(f'{{"event":"started","case":"models/m-{n}"}}\n' for n in range(7))
    file.write_text(f"{file.read_text()}no json\n{starts}" + '{"event":"fin')
    assert main(["report", "old"]) == 0
    error = capsys.readouterr().err
    assert "2 broken lines of the journals left out" in error
    assert "7 cases began and did not end: models/m-0, " in error
    assert "m-4, …" in error
