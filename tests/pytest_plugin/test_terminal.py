"""What a run shows: a bar with the time left on a terminal, letters elsewhere, tables at the end."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pytest_plugin.conftest import Checkout

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
TABLES = ("format x mode over all layers", "worst 10 layers", "sqnr_db_median", "results: ")


@contextmanager
def terminal() -> Iterator[tuple[Path, Callable[[], str]]]:
    """The path of a pseudo-terminal, and a function that gives what was written to it."""
    ours, theirs = os.openpty()
    written = bytearray()

    def read() -> None:
        try:
            while block := os.read(ours, 4096):
                written.extend(block)
        except OSError:
            pass

    reader = threading.Thread(target=read)
    reader.start()

    def text() -> str:
        os.close(theirs)
        reader.join()
        return ESCAPES.sub("", written.decode())

    yield Path(os.ttyname(theirs)), text
    os.close(ours)


def on_terminal(checkout: Checkout, *arguments: str) -> str:
    """What a run of the grid writes to a terminal."""
    with terminal() as (path, text):
        run = checkout.start(*checkout.grid, *arguments, output=path, environment={"TERM": "xterm"})
        assert run.code == pytest.ExitCode.OK
        return text()


def test_a_terminal_shows_a_bar_with_the_time_left_and_no_letters(checkout: Checkout) -> None:
    shown = on_terminal(checkout)
    assert re.search(r"cases .*12/12 .*failed 0 .*left 0:00:00", shown)
    assert "1/12" in shown
    assert not re.search(r"test_layers.py [.F]", shown)
    assert all(table in shown for table in TABLES)
    assert "12 passed" in shown


def test_a_terminal_with_v_shows_names(checkout: Checkout) -> None:
    shown = on_terminal(checkout, "-v")
    assert "test_layer[tiny-int8-tensor-3] PASSED" in shown
    assert "left 0:00" not in shown


def test_a_pipe_shows_letters(checkout: Checkout) -> None:
    run = checkout.measure()
    assert "cases/test_layers.py ............" in run.output
    assert "left 0:00" not in run.output
    assert all(table in run.output for table in TABLES)


def test_a_pipe_with_v_shows_names(checkout: Checkout) -> None:
    run = checkout.measure("-v")
    assert len(re.findall(r"test_layer\[tiny-\S+\] PASSED", run.output)) == 12


def test_a_failure_shows_its_reason_and_no_source(checkout: Checkout) -> None:
    checkout.write("gates.csv", "table,format,mode,what,min_sqnr_db\nlayers,int8,*,*,99\n")
    run = checkout.measure("--qbench-gates=gates.csv")
    assert "6 failed, 6 passed" in run.last_line
    assert "sqnr_db of int8 in channel is at least 99 dB on Conv2d; got" in run.output
    assert "gate(measure(layer_case))" not in run.output
