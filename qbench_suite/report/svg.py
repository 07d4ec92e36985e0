"""What matplotlib writes as an SVG file, made part of a page."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

#: Colours to draw with; each stands for a variable of the page's style sheet.
INK = {
    "ink": "#010101",
    "muted": "#020202",
    "line": "#030303",
    "accent": "#040404",
    "grey": "#050505",
    "bad": "#060606",
    "card": "#070707",
    "good": "#080808",
    "violet": "#090909",
}
_VARIABLES = {colour: f"var(--{name})" for name, colour in INK.items()}


def inline(svg: str, name: str, alt: str, hints: Sequence[str]) -> str:
    """The file ``svg`` as an element of an HTML page.

    Its ids begin with ``name``, so that figures do not mix; its colours are the page's; it is an
    image described by ``alt``; the element with id ``hint3`` shows ``hints[3]`` under the pointer.
    """
    # Texts of the drawing are escaped in it: what looks like markup here is matplotlib's own.
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.S)
    body = re.sub(r"<[^>]+>", lambda match: _tag(match[0], name), body)
    for number, hint in enumerate(hints):
        mark = f'<g id="{name}-hint{number}">'
        body = body.replace(mark, f"{mark}<title>{html.escape(hint)}</title>")
    return re.sub(r"<svg[^>]*>", lambda match: _opening(match[0], alt), body, count=1).strip()


def _tag(tag: str, name: str) -> str:
    tag = re.sub(r"#0([1-9])0(?:\1)0\1", lambda match: _VARIABLES[match[0]], tag)
    tag = re.sub(r' id="', f' id="{name}-', tag)
    return tag.replace('xlink:href="#', f'href="#{name}-').replace("xlink:href=", "href=")


def _opening(tag: str, alt: str) -> str:
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', tag)
    width, height = (float(side) for side in box.groups()) if box else (0.0, 0.0)
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" style="--width:{width:.0f}" role="img" '
        f'aria-label="{html.escape(alt)}">'
    )
