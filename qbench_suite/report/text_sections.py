"""Sections of the comparison report; one without anything to say is left out."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any

from qbench_suite.report import notation
from qbench_suite.report.run import Record, looked_at
from qbench_suite.report.text_table import (
    Column,
    fixed,
    heading,
    pair,
    significant,
    table,
    words,
)

_SHARE = 100.0


def _section(title: str) -> Callable[[Callable[..., Iterator[str]]], Callable[..., list[str]]]:
    """Gives lines their title; a section without lines has none."""

    def titled(lines_of: Callable[..., Iterator[str]]) -> Callable[..., list[str]]:
        @functools.wraps(lines_of)
        def section(*arguments: Any) -> list[str]:
            lines = list(lines_of(*arguments))
            return [*heading(title), *lines] if lines else []

        return section

    return titled


@_section("Accuracy")
def accuracy(row: Record) -> Iterator[str]:
    """What became of the answers, against FP32."""
    metrics = (("top1", "top-1 (%)", 2), ("top5", "top-5 (%)", 2), ("certainty", "certainty", 4))
    compared = [_compared(row, *m) for m in metrics if row[m[0]] is not None]
    if compared:
        yield from table(
            [Column(n, operator.itemgetter(n), n == "metric") for n in _HEADINGS], compared
        )
        yield ""
    if row["lost"] is not None:
        yield from pair(
            "lost", f"{notation.count(row['lost'], 'image')}: right in FP32, wrong here"
        )
    if row["gained"] is not None:
        yield from pair(
            "gained", f"{notation.count(row['gained'], 'image')}: wrong in FP32, right here"
        )
    if row["top1_drop"] is not None:
        ends = notation.interval(row.get("top1_drop_low"), row.get("top1_drop_high"))
        drop = f"{notation.fixed(row['top1_drop'])} points"
        yield from pair("top-1 drop", f"{drop}, paired 95 % interval {ends}" if ends else drop)
    yield from pair("agreement", _unit(notation.fixed(row["agreement"]), "% of images"))
    yield from pair("KL divergence", _unit(notation.significant(row["kl"], 4), "nat"))
    yield from pair("logits: mse", notation.significant(row["mse"], 4))
    yield from pair("logits: sqnr", _unit(notation.fixed(row["sqnr_db"]), "dB"))
    yield from pair("logits: cosine", notation.significant(row["cosine"], 6))
    yield from pair("not finite", _unit(notation.integer(row["nonfinite_count"]), "new logits"))
    if row["fp32_nonfinite_count"]:
        yield from pair("not finite, FP32", f"{row['fp32_nonfinite_count']:,} logits")


_HEADINGS = ("metric", "FP32", "FP32 95 % interval", "quantized", "95 % interval", "change")


def _compared(row: Record, name: str, metric: str, digits: int) -> dict[str, str]:
    before, after = row[f"fp32_{name}"], row[name]
    intervals = [
        notation.interval(row.get(f"{column}_low"), row.get(f"{column}_high"))
        for column in (f"fp32_{name}", name)
    ]
    change = None if before is None else after - before
    cells = (
        metric,
        notation.fixed(before, digits),
        intervals[0],
        notation.fixed(after, digits),
        intervals[1],
        notation.signed(change, digits),
    )
    return dict(zip(_HEADINGS, cells, strict=True))


def _unit(number: str, unit: str) -> str:
    return f"{number} {unit}" if number else ""


@_section("Cost")
def cost(row: Record) -> Iterator[str]:
    """Bits, bytes and time."""
    yield from pair(
        "weight bits", _unit(notation.fixed(row["weight_bits"]), "a parameter, with scales")
    )
    yield from pair(
        "input bits", _unit(notation.fixed(row["input_bits"]), "an operand, with scales")
    )
    yield from pair("weight bytes", notation.integer(row["weight_bytes"]))
    yield from pair("latency", _latency(row))
    yield from pair("FP32 latency", _unit(notation.fixed(row["fp32_latency_ms"], 3), "ms"))
    yield from pair("slowdown", _unit(notation.fixed(row["slowdown"]), "times FP32 (emulated)"))
    layerwise = notation.fixed(row["layerwise_slowdown"])
    yield from pair("with layer metrics", _unit(layerwise, "times FP32"))


def _latency(row: Record) -> str:
    parts = (("median", "latency_ms"), ("fastest", "latency_min_ms"), ("IQR", "latency_iqr_ms"))
    known = [f"{word} {notation.fixed(row[c], 3)} ms" for word, c in parts if row[c] is not None]
    rounds = f"{row['rounds']} rounds" if row["rounds"] is not None else ""
    return ", ".join(filter(None, [*known, rounds]))


def _share(value: float | None) -> str:
    return "" if value is None else f"{notation.fixed(value * _SHARE)} % of multiply-adds"


@_section("Coverage")
def coverage(row: Record, layers: list[Record]) -> Iterator[str]:
    """How much is quantized, and what stays float for which reason."""
    yield from pair("one operand", _share(row["coverage"]))
    yield from pair("both operands", _share(row["full_coverage"]))
    yield from pair("multiply-adds", _unit(notation.compact(row["multiply_adds"]), "an image"))
    yield from pair("quantized layers", notation.integer(row["quantized_layers"]))
    yield from pair("float layers", notation.integer(row["float_layers"]))
    left = [layer for layer in layers if layer["reason"]]
    if left:
        yield from ("", "What stays float, and why:")
    reasons: dict[str, list[Record]] = {}
    for layer in left:
        reasons.setdefault(layer["reason"], []).append(layer)
    for reason, of_reason in reasons.items():
        names = ", ".join(f"{layer['layer']} ({layer['layer_type']})" for layer in of_reason)
        yield from ("", *pair(f"  {notation.count(len(of_reason), 'layer')}", reason))
        yield from pair("  ", names)


@_section("Compliance")
def compliance(row: Record, violations: list[Record]) -> Iterator[str]:
    """What was checked against the grid, and the verdict by role."""
    seen = row["compliant"] is not None
    yield from pair("every value legal", notation.verdict(row["compliant"]) or "not looked at")
    yield from pair("values checked", notation.integer(row["checked_values"]))
    yield from pair("off the grid", notation.integer(row["violations"]))
    roles, tolerance = looked_at(row)
    yield from pair("tolerance", tolerance)
    off = {v["role"] for v in violations}
    rows = [
        {
            "role": role,
            "tensors": tensors,
            "verdict": "OFF THE GRID" if role in off else "ok" if seen else "",
        }
        for role, tensors in roles.items()
    ]
    if rows:
        yield ""
        yield from table(
            [words("role", "role"), words("tensors", "tensors"), words("verdict", "verdict")], rows
        )


@_section("Layers, in the order in which they run")
def layers(layers: list[Record]) -> Iterator[str]:
    """A line a layer: error against the float model, range of what it reads."""
    if not layers:
        return
    yield "Errors are propagated: the output in the converted model against that in the float model."
    yield ""
    keys = _keys(layers)
    yield from table(
        [
            words("layer", "layer"),
            words("type", "layer_type"),
            Column("q", lambda row: keys.get(row["roles"], "") if row["roles"] else "", True),
            significant("mse", "mse"),
            fixed("sqnr_db", "sqnr_db"),
            fixed("cosine", "cosine", 5),
            significant("in min", "input_min"),
            significant("in max", "input_max"),
            fixed("range_db", "input_dynamic_range_db", 1),
            Column("off", lambda row: notation.integer(row["violations"])),
        ],
        layers,
    )
    yield ""
    for roles, key in keys.items():
        yield from pair(f"q = {key}", roles.replace(";", "; "))
    yield from pair("range_db", "20 log10(largest / smallest magnitude above 0) of what it reads")
    yield from pair("off", "values of it off the grid")


def _keys(layers: list[Record]) -> dict[str, str]:
    """A short key for each way in which a layer is quantized: A, B, … Z, A1 and so on."""
    ways = dict.fromkeys(layer["roles"] for layer in layers if layer["roles"])
    return {
        way: chr(ord("A") + number % 26) + (str(number // 26) if number >= 26 else "")
        for number, way in enumerate(ways)
    }


@_section("Values off the grid")
def failures(row: Record, violations: list[Record]) -> Iterator[str]:
    """Each value off the grid that is known, with its nearest legal values."""
    if not violations and not row["violation"]:
        return
    total = row["violations"] if row["violations"] is not None else len(violations)
    if violations:
        yield f"{len(violations):,} of {total:,} shown."
    else:
        yield from pair("first", row["violation"])
    for number, violation in enumerate(violations, 1):
        yield ""
        yield from pair(f"{number}. layer", violation["layer"] or "-")
        yield from pair("   role, tensor", f"{violation['role']}, {violation['tensor']}")
        yield from pair("   index", f"[{violation['index']}]{_in_batch(violation)}")
        yield from pair("   value", violation["value"])
        below, above = violation["nearest_below"], violation["nearest_above"]
        yield from pair("   nearest legal", f"{below or 'none'} below, {above or 'none'} above")
        yield from pair("   scale", violation["scale"])
        yield from pair("   quantizer", f"{violation['format']}-{violation['mode']}")


def _in_batch(violation: Record) -> str:
    batch = violation["batch_index"]
    return "" if batch is None else f" of batch {batch}"
