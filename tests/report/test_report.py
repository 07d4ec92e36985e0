"""Reports of a run: what is written, where, and what happens where it cannot be."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qbench_suite import ResultsError
from qbench_suite.report import ReportWarning, write_reports
from qbench_suite.results import ModelRow

MakeRun = Callable[..., Path]


def test_texts_and_the_page_are_written(make_run: MakeRun, made: Any) -> None:
    pytest.importorskip("matplotlib")
    folder = make_run(made.model_row("m", "p"), made.model_row("timm:n", "policies/q.yaml"))
    assert [p.relative_to(folder).as_posix() for p in write_reports(folder)] == [
        "m/p/comparison_report.txt",
        "timm.n/q/comparison_report.txt",
        "report.html",
    ]
    assert not list(folder.rglob("*.tmp"))


def test_without_the_libraries_texts_are_written_and_a_line_says_how(
    make_run: MakeRun, made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *a: None if name == "matplotlib" else find(name, *a),
    )
    folder = make_run(made.model_row("m", "p"))
    with pytest.warns(ReportWarning) as caught:
        written = write_reports(folder)
    assert [p.name for p in written] == ["comparison_report.txt"]
    assert str(caught[0].message) == (
        f"report.html needs matplotlib: pip install 'qbench-suite[report]', then qbench report {folder}"
    )


def test_a_run_without_rows_has_no_report(make_run: MakeRun) -> None:
    folder = make_run()
    assert write_reports(folder) == []
    assert not (folder / "report.html").exists()


def test_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="journal"):
        write_reports(tmp_path)


def test_a_full_disk_is_told_with_the_remedy(
    make_run: MakeRun, made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(made.model_row("m", "p"))

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ResultsError, match=r"No space left on device.*Free space"):
        write_reports(folder)


def test_reports_are_replaced_when_the_run_has_grown(make_run: MakeRun, made: Any) -> None:
    pytest.importorskip("matplotlib")
    folder = make_run(
        ModelRow(case="m-p", model="m", policy="p", outcome="error", reason="out of memory")
    )
    write_reports(folder)
    assert "out of memory" in (folder / "m/p/comparison_report.txt").read_text()
    make_run(made.model_row("m", "p"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_reports(folder)
    assert "out of memory" not in (folder / "m/p/comparison_report.txt").read_text()
    assert "out of memory" not in (folder / "report.html").read_text(encoding="utf-8")


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = "{'matplotlib', 'jinja2', 'torch', 'pandas'}"
    code = f"import sys, qbench_suite.report; print({heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_reports_never_import_the_engine_or_torch(realistic: Path) -> None:
    pytest.importorskip("matplotlib")
    code = (
        "import sys, pathlib, qbench_suite.report as r; r.write_reports(pathlib.Path(sys.argv[1]));"
        "print({m for m in sys.modules if m == 'torch' or m.startswith('qbench_suite.engine')})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(realistic)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
