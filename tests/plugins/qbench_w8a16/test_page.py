"""The page about the scheme: its snippet prints what it says, and its figures are those of the layer."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

from qbench_w8a16 import W8A16LinearLayer

PAGE = (Path(__file__).parents[3] / "docs/explanation/w8a16.md").read_text(encoding="utf-8")


def test_the_snippet_prints_what_the_page_shows() -> None:
    shown = re.search(r"```python\n(.*?)```\n```text\n(.*?)```", PAGE, re.DOTALL)
    assert shown
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(shown[1], "w8a16.md", "exec"), {})
    assert said.getvalue() == shown[2]


def test_the_bytes_are_those_of_the_layer() -> None:
    for bits, row in ((8, "W8A16"), (4, "W4A16, groups of 128")):
        storage = W8A16LinearLayer(4096, 4096, bits=bits).storage()
        over, half = storage.float32 / storage.stored, storage.float16 / storage.stored
        stored = f"{storage.stored:,}".replace(",", " ")
        assert f"| {row} | {stored} | {over:.2f}× | {half:.2f}× |" in PAGE
