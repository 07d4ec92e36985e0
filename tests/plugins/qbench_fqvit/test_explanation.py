"""The page on integer transformers runs, and its table names the methods that there are."""

from __future__ import annotations

import re
from pathlib import Path

from qbench_fqvit import METHODS

PAGE = Path(__file__).parents[3] / "docs" / "explanation" / "integer-vit.md"


def test_every_snippet_runs() -> None:
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert snippets
    for snippet in snippets:
        exec(compile(snippet, str(PAGE), "exec"), {})


def test_the_table_has_a_line_for_each_method() -> None:
    named = re.findall(r"^\| \**`(fqvit\.[a-z0-9.]+)`", PAGE.read_text(encoding="utf-8"), re.M)
    assert named == [method.name for method in METHODS]
