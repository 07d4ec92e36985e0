"""SVG made part of a page: ids of its own, colours of the page, texts untouched."""

from __future__ import annotations

from qbench_suite.report.svg import inline

FILE = """<?xml version="1.0"?>
<!DOCTYPE svg PUBLIC "x" "http://x">
<svg xmlns:xlink="http://www.w3.org/1999/xlink" width="10pt" height="5pt" viewBox="0 0 10 5">
 <metadata><a href="http://x"/></metadata>
 <defs><style type="text/css">*{color:red}</style></defs>
 <!-- a > comment -->
 <g id="hint0"><path id="m1" style="fill: #040404"/></g>
 <use xlink:href="#m1"/><image xlink:href="data:image/png;base64,A//="/>
 <text>#040404 id="x" &lt;b&gt; $a$</text>
</svg>
"""


def test_a_file_becomes_an_element() -> None:
    svg = inline(FILE, "f", 'alt "text" <b>', ["<hint>"])
    assert svg.startswith(
        '<svg viewBox="0 0 10 5" style="--width:10" role="img" aria-label="alt &quot;'
    )
    assert svg.endswith("</svg>")
    for gone in ("http", "xlink", "metadata", "<style", "<!--", "<?xml"):
        assert gone not in svg
    assert (
        '<g id="f-hint0"><title>&lt;hint&gt;</title><path id="f-m1" style="fill: var(--accent)"/>'
        in svg
    )
    assert '<use href="#f-m1"/><image href="data:image/png;base64,A//="/>' in svg


def test_texts_are_left_alone() -> None:
    assert '<text>#040404 id="x" &lt;b&gt; $a$</text>' in inline(FILE, "f", "", [])
