"""Notation: how numbers are written in every report; what is empty is written as nothing."""

from __future__ import annotations

import math
import unicodedata
from typing import Any

_LARGE = 1e7
_PREFIXES = ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k"))


def fixed(value: Any, digits: int = 2) -> str:
    """``value`` with ``digits`` decimals; None and NaN as nothing, ±Inf as ``inf`` and ``-inf``."""
    if value is None or math.isnan(value):
        return ""
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if abs(value) >= _LARGE:
        return f"{value:.3g}"
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if not float(text) else text


def significant(value: Any, digits: int = 3) -> str:
    """``value`` with ``digits`` significant digits; special values as ``fixed`` writes them."""
    if value is None or not math.isfinite(value):
        return fixed(value)
    return f"{value:.{digits}g}"


def signed(value: Any, digits: int = 2) -> str:
    """``value`` as ``fixed`` writes it, with a plus sign above zero."""
    text = fixed(value, digits)
    return f"+{text}" if text and value > 0 and text.strip("0.") else text


def integer(value: Any) -> str:
    """``value`` with commas between thousands."""
    return "" if value is None or math.isnan(value) else f"{int(value):,}"


def compact(value: Any) -> str:
    """``value`` with three digits and a prefix: 1.23 M."""
    if value is None or not math.isfinite(value):
        return fixed(value)
    for unit, prefix in _PREFIXES:
        if abs(value) >= unit:
            return f"{value / unit:.3g}{prefix}"
    return f"{value:.3g}"


def interval(low: Any, high: Any, digits: int = 2) -> str:
    """``[low, high]``; nothing where either is empty."""
    if low is None or high is None:
        return ""
    return f"[{fixed(low, digits)}, {fixed(high, digits)}]"


def with_interval(value: Any, low: Any, high: Any, digits: int = 2) -> str:
    """``value [low, high]``."""
    return f"{fixed(value, digits)} {interval(low, high, digits)}".strip()


def verdict(compliant: Any) -> str:
    """``yes``, ``no``, or nothing where compliance was not looked at."""
    return "" if compliant is None else "yes" if compliant else "no"


def count(number: int, noun: str) -> str:
    """``1 policy``, ``1,200 policies``."""
    plural = f"{noun[:-1]}ies" if noun.endswith("cy") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def printable(text: Any) -> str:
    """``text`` in one line, with control characters escaped and runs of spaces made one."""
    joined = " ".join(str(text).split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in joined)


def columns(text: str) -> int:
    """Columns that ``text`` takes on a terminal: two for wide characters, none for combining ones."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )
