"""The journal: whatever ends a process, what was measured stays readable."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qbench_suite import ResultsError
from qbench_suite.results import Journal, read_journals

HEADER = {"run": "r", "seed": 0}


def write(folder: Path, cases: int = 3, **header: Any) -> Path:
    """A journal of finished cases ``c0``, ``c1``, …; its file."""
    journal = Journal(folder, HEADER | header, joins=True)
    for i in range(cases):
        journal.started(f"c{i}")
        journal.finished(f"c{i}", "layers", {"case": f"c{i}", "mse": float(i)})
    journal.close()
    return Path(journal._file.name)


def test_line_is_on_disk_before_the_next_case(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "runs" / "r", HEADER)
    journal.started("c0")
    contents = read_journals(tmp_path / "runs" / "r")
    assert contents.in_flight == {"c0"}
    journal.finished("c0", "layers", {"mse": 1.0})
    contents = read_journals(tmp_path / "runs" / "r")
    assert (contents.in_flight, contents.broken_lines) == (set(), 0)
    assert contents.rows == {"c0": ("layers", {"mse": 1.0, "_header": 0})}
    journal.close()


def test_modules_left_float_are_noted(tmp_path: Path) -> None:
    journal = Journal(tmp_path, HEADER)
    journal.left_float("m", [{"module": "pool", "reason": "no layer"}])
    journal.close()
    assert read_journals(tmp_path).left_float == {"m": [{"module": "pool", "reason": "no layer"}]}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1))
def test_journal_cut_anywhere_loses_the_last_line_only(tmp_path: Path, share: float) -> None:
    file = write(tmp_path)
    whole = file.read_bytes()
    try:
        end = int(share * len(whole))
        file.write_bytes(whole[:end])
        contents = read_journals(tmp_path)
        assert len(contents.rows) == whole[:end].count(b'"finished"') - (
            b'"finished"' in whole[:end].split(b"\n")[-1] and not whole[:end].endswith(b"}}")
        )
        assert contents.broken_lines <= 1
    finally:
        file.unlink()


@pytest.mark.parametrize("garbage", [b"\x00\x00\x00", b"\xff\xfe{", b'{"event":', b"[]", b"7", b""])
def test_garbage_between_lines_is_skipped(tmp_path: Path, garbage: bytes) -> None:
    file = write(tmp_path)
    lines = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([*lines[:3], garbage, *lines[3:]]) + b"\n")
    assert sorted(read_journals(tmp_path).rows) == ["c0", "c1", "c2"]


def test_process_of_the_same_id_goes_on_below_a_torn_line(tmp_path: Path) -> None:
    file = write(tmp_path, 1, seed=1)
    with file.open("ab") as torn:
        torn.write(b'{"event":"finished","case":"c')
    assert write(tmp_path, 2, seed=2) == file
    contents = read_journals(tmp_path)
    assert [header["seed"] for header in contents.headers] == [1, 2]
    assert contents.rows["c0"][1]["_header"] == 1
    assert sorted(contents.rows) == ["c0", "c1"]
    assert contents.broken_lines == 1


def test_case_that_ran_again_keeps_its_last_row(tmp_path: Path) -> None:
    first = write(tmp_path, 2, seed=1)
    older = first.rename(tmp_path / "journal-zzz-1.jsonl")
    os.utime(older, (1, 1))
    journal = Journal(tmp_path, HEADER | {"seed": 2}, joins=True)
    journal.finished("c1", "layers", {"mse": 9.0})
    journal.started("c0")
    journal.close()
    contents = read_journals(tmp_path)
    assert contents.rows["c1"] == ("layers", {"mse": 9.0, "_header": 1})
    assert contents.rows["c0"][1]["_header"] == 0
    assert contents.in_flight == {"c0"}


def test_copied_folder_without_its_times_keeps_the_last_row(tmp_path: Path) -> None:
    first = write(tmp_path, 1, started_at="2026-01-02T00:00:00+00:00")
    older = first.rename(tmp_path / "journal-zzz-1.jsonl")
    journal = Journal(tmp_path, HEADER | {"started_at": "2026-01-10T00:00:00+00:00"}, joins=True)
    journal.finished("c0", "layers", {"mse": 9.0})
    journal.close()
    os.utime(Path(journal._file.name), (1, 1))
    os.utime(older, (2, 2))
    assert read_journals(tmp_path).rows["c0"][1]["mse"] == 9.0


def test_folder_takes_one_run_at_a_time(tmp_path: Path) -> None:
    journal = Journal(tmp_path, HEADER)
    with pytest.raises(ResultsError, match=f"in use by process {os.getpid()}") as caught:
        Journal(tmp_path, HEADER, joins=True)
    assert "--qbench-run" in str(caught.value)
    Journal(tmp_path, HEADER, shared=True).close()
    journal.close()
    Journal(tmp_path, HEADER, joins=True).close()


def test_other_process_in_the_folder_is_named(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; from qbench_suite.results import Journal\n"
        "journal = Journal(pathlib.Path(sys.argv[1]), {})\n"
        "print('locked', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(ResultsError, match=f"process {other.pid}"):
            Journal(tmp_path, HEADER, joins=True)
        other.kill()
        other.wait()
    Journal(tmp_path, HEADER, joins=True).close()


@pytest.mark.parametrize("name", ["file", "file/run"])
def test_folder_that_cannot_be_made_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match="cannot be written") as caught:
        Journal(tmp_path / name, HEADER)
    assert "--qbench-results" in str(caught.value)


def test_folder_without_journal_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="holds none"):
        read_journals(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_full_disk_is_told_with_the_way_on(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "r7", HEADER)
    journal.finished("c0", "layers", {"mse": 1.0})
    with journal._file, Path("/dev/full").open("w", encoding="utf-8") as full:
        journal._file = full
        with pytest.raises(ResultsError, match="--qbench-resume r7") as caught:
            journal.finished("c1", "layers", {"mse": 1.0})
        journal.close()
    assert os.strerror(errno.ENOSPC) in str(caught.value)
    assert "stays readable" in str(caught.value)
    assert sorted(read_journals(tmp_path / "r7").rows) == ["c0"]


def test_file_that_may_not_grow_keeps_the_rows_before(tmp_path: Path) -> None:
    script = (
        "import pathlib, resource, signal, sys\n"
        "from qbench_suite.results import Journal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "journal = Journal(pathlib.Path(sys.argv[1]) / 'r8', {})\n"
        "for i in range(1000):\n"
        "    print(i, flush=True)\n"
        "    journal.finished(f'c{i}', 'layers', {'case': f'c{i}', 'reason': 'x' * 100})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "--qbench-resume r8" in done.stderr
    assert os.strerror(errno.EFBIG) in done.stderr
    begun = len(done.stdout.split())
    assert 5 < begun < 40
    contents = read_journals(tmp_path / "r8")
    assert sorted(contents.rows) == sorted(f"c{i}" for i in range(begun - 1))
    assert contents.broken_lines <= 1


def test_lines_are_strict_json(tmp_path: Path) -> None:
    journal = Journal(tmp_path, HEADER)
    with pytest.raises(ValueError, match="JSON"):
        journal.finished("c0", "layers", {"mse": float("nan")})
    journal.finished("c1", "layers", {"text": 'a "b"\n\u2028 é'})
    journal.close()
    lines = Path(journal._file.name).read_text(encoding="utf-8").split("\n")
    assert [json.loads(line)["event"] for line in lines if line] == ["run", "finished"]
    assert read_journals(tmp_path).rows["c1"][1]["text"] == 'a "b"\n\u2028 é'


def test_a_new_run_has_a_folder_of_its_own(tmp_path: Path) -> None:
    Journal(tmp_path, HEADER).close()
    with pytest.raises(ResultsError, match="--qbench-resume"):
        Journal(tmp_path, HEADER)


def test_lines_that_lack_what_their_event_needs_are_broken(tmp_path: Path) -> None:
    journal = Journal(tmp_path, HEADER)
    journal.finished("layers/a", "layers", {"case": "a"})
    journal.close()
    (file,) = tmp_path.glob("journal-*.jsonl")
    with file.open("a") as lines:
        lines.write('{"event":"finished","case":"layers/b","table":"layers"}\n')
    contents = read_journals(tmp_path)
    assert (set(contents.rows), contents.broken_lines) == ({"layers/a"}, 1)
