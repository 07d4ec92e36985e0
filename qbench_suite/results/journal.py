"""Journal: an append-only file of what was started and what was finished, safe against any end.

A line is one JSON object: ``{"event": "run", …}`` when a process starts, ``{"event": "started",
"case": id}`` before a case and ``{"event": "finished", "case": id, "table": name, "row": {…}}`` after
it, with ``"details": {table: [row, …]}`` where rows of other tables belong to it. Each line is flushed;
killing the process loses at most the case in flight.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from qbench_suite.errors import ResultsError

_LOCK = "run.lock"
#: What a line of each event must hold to be of use.
_NEEDS = {
    "started": {"case"},
    "finished": {"case", "table", "row"},
    "float": {"model", "modules"},
}


class Journal:
    """The journal that this process writes in a run's folder.

    ``shared``: other processes of this run write there too; ``joins``: the folder may hold journals
    already, of a run that is resumed. Raises ``ResultsError`` where the folder cannot be written,
    another run is using it, or a run that is not joined has been there.
    """

    def __init__(
        self, folder: Path, header: dict[str, Any], *, shared: bool = False, joins: bool = False
    ) -> None:
        self.folder = folder
        self._lock: TextIO | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not shared:
                self._lock = _lock(folder)
            if not (shared or joins) and any(folder.glob("journal-*.jsonl")):
                raise ResultsError(
                    f"A new run has a folder of its own; {folder} holds a run. Go on with it by "
                    f"--qbench-resume {folder.name}, or name another with --qbench-run."
                )
            name = f"journal-{socket.gethostname()}-{os.getpid()}.jsonl"
            self._file = (folder / name).open("a", encoding="utf-8")
        except OSError as error:
            if isinstance(error, ResultsError):
                raise
            raise ResultsError(
                f"A run writes its journal into its folder; {folder} cannot be written: "
                f"{error.strerror or error}. Choose another with --qbench-results."
            ) from error
        if self._file.tell():  # a process of this id was killed here: its last line may be open
            self._file.write("\n")
        self._write({"event": "run", **header})

    def started(self, case: str) -> None:
        """Note that ``case`` begins."""
        self._write({"event": "started", "case": case})

    def finished(
        self,
        case: str,
        table: str,
        row: dict[str, Any],
        details: dict[str, list[dict[str, Any]]] | None = None,
    ) -> None:
        """Note that ``case`` ended with ``row``, and with rows of other tables that belong to it."""
        record = {"event": "finished", "case": case, "table": table, "row": row}
        self._write(record | ({"details": details} if details else {}))

    def left_float(self, model: str, modules: list[dict[str, Any]]) -> None:
        """Note the modules of ``model`` that no layer replaces."""
        self._write({"event": "float", "model": model, "modules": modules})

    def close(self) -> None:
        """Close the file and let the folder go."""
        # On a full disk what could be flushed is there already.
        with contextlib.suppress(OSError):
            self._file.close()
        if self._lock:
            self._lock.close()

    def _write(self, record: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(record, allow_nan=False, separators=(",", ":")) + "\n")
            self._file.flush()
        except OSError as error:
            raise ResultsError(
                f"A journal grows with each case; {self._file.name} does not: "
                f"{error.strerror or error}. What is measured so far stays readable: free space, then "
                f"go on with --qbench-resume {self.folder.name}."
            ) from error


def _lock(folder: Path) -> TextIO:
    lock = (folder / _LOCK).open("a+", encoding="utf-8")
    try:
        import fcntl
    except ImportError:  # Windows: names carry a time and a process id, so runs seldom meet.
        return lock
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        holder = lock.read().strip() or "unknown"
        lock.close()
        raise ResultsError(
            f"A results folder takes one run at a time; {folder} is in use by process {holder}. "
            "Wait for it, or name another run with --qbench-run."
        ) from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


@dataclass
class JournalContents:
    """What the journals of a run say."""

    #: Headers of the processes that took part, in order.
    headers: list[dict[str, Any]] = field(default_factory=list)
    #: (table, row) by case, the last one where a case ran again; the row has its header's number.
    rows: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    #: Rows that belong to a case's row, by case and table.
    details_of: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)
    #: Cases that began and did not end.
    in_flight: set[str] = field(default_factory=set)
    #: Modules left float, by model.
    left_float: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    #: Lines that are not whole, as a killed process or a full disk leaves them.
    broken_lines: int = 0

    @property
    def details(self) -> dict[str, list[dict[str, Any]]]:
        """Rows that belong to the rows of cases, by table."""
        tables: dict[str, list[dict[str, Any]]] = {}
        for details in self.details_of.values():
            for table, rows in details.items():
                tables.setdefault(table, []).extend(rows)
        return tables


def read_journals(folder: Path) -> JournalContents:
    """Everything the journals in ``folder`` hold; raises ``ResultsError`` where there is none."""
    files = sorted(folder.glob("journal-*.jsonl"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise ResultsError(
            f"A run's folder holds journal-*.jsonl; {folder} holds none. Name a folder under results/."
        )
    contents = JournalContents()
    # A copy of the folder may have lost the times of its files; what the journals say outranks them.
    for records in sorted((list(_records(file, contents)) for file in files), key=_started_at):
        _take(records, contents)
    return contents


def _started_at(records: list[dict[str, Any]]) -> str:
    return next((str(r["started_at"]) for r in records if "started_at" in r), "")


def _take(records: list[dict[str, Any]], contents: JournalContents) -> None:
    header = len(contents.headers)
    for record in records:
        event, case = record.get("event"), record.get("case", "")
        if event == "run":
            header = len(contents.headers)
            contents.headers.append(record)
        elif event == "started":
            contents.in_flight.add(case)
        elif event == "finished":
            contents.in_flight.discard(case)
            mark = {"_header": header}
            contents.rows[case] = (record["table"], record["row"] | mark)
            details = record.get("details", {})
            contents.details_of[case] = {t: [r | mark for r in rows] for t, rows in details.items()}
        elif event == "float":
            contents.left_float[record["model"]] = record["modules"]


def _records(file: Path, contents: JournalContents) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in filter(str.strip, lines):
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if isinstance(record, dict) and _NEEDS.get(str(record.get("event")), set()) <= set(
                record
            ):
                yield record
            else:
                contents.broken_lines += 1
