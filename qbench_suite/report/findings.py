"""Findings: what a run says, in sentences and key figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from qbench_suite.report import notation
from qbench_suite.report.aggregate import by_format_and_mode
from qbench_suite.report.run import Record, Run, looked_at

#: Loss of top-1 in points that counts as keeping the accuracy.
TOLERANCE = 1.0
#: Models that the sentence on top names one by one.
_NAMED = 3


@dataclass(frozen=True)
class Finding:
    """What the policies of one model come to; only passed cases that quantize something count."""

    model: str
    #: The case of fewest bits whose 95 % interval of the drop ends within ``TOLERANCE``; else None.
    best: Record | None
    #: The case of fewest bits measured within ``TOLERANCE``, whatever its interval; else None.
    maybe: Record | None
    #: The case of highest top-1; None where none has passed.
    nearest: Record | None


def by_model(rows: Iterable[Record]) -> dict[str, list[Record]]:
    """``rows`` by model, models in order of their names."""
    models: dict[str, list[Record]] = {}
    for row in rows:
        models.setdefault(row["model"], []).append(row)
    return dict(sorted(models.items()))


def findings(run: Run) -> list[Finding]:
    """A finding for each model of the run's model cases."""
    return [_finding(model, rows) for model, rows in by_model(run.models).items()]


def _finding(model: str, rows: list[Record]) -> Finding:
    good = [
        r
        for r in rows
        if r["outcome"] == "passed" and r["top1"] is not None and r["quantized_layers"] != 0
    ]
    return Finding(
        model,
        _cheapest(good, "top1_drop_high"),
        _cheapest(good, "top1_drop"),
        max(good, key=lambda r: r["top1"], default=None),
    )


def _cheapest(rows: list[Record], drop: str) -> Record | None:
    """The row of fewest bits whose column ``drop`` is at most ``TOLERANCE``."""
    within = [
        row
        for row in rows
        if row.get(drop) is not None and row[drop] <= TOLERANCE and row["weight_bits"] is not None
    ]
    return min(within, key=_cost, default=None)


def _cost(row: Record) -> tuple[float, float, float]:
    inputs = row["input_bits"]
    return row["weight_bits"], float("inf") if inputs is None else inputs, -row["top1"]


def lead(run: Run) -> str:
    """The run in one sentence or two."""
    found = findings(run)
    if found:
        return _lead_of_models(run, found)
    if "layers" in run.tables:
        return _lead_of_layers(run)
    sizes = [f"{notation.count(len(t), 'row')} of {name}" for name, t in run.tables.items()]
    return f"This run holds {', '.join(sizes)}." if sizes else "This run holds no finished case."


def _lead_of_models(run: Run, found: list[Finding]) -> str:
    policies = notation.count(len({row["policy"] for row in run.models}), "policy")
    if len(found) == 1:
        return f"{policies} on {found[0].model}: {sentence(found[0])}."
    images = f", {size} images a case" if (size := _sizes(run.models)) else ""
    head = f"{policies} on {len(found)} models{images}"
    sure = [finding for finding in found if finding.best]
    if not sure:
        return f"{head}: none is sure to stay within {TOLERANCE:g} point of FP32 (95 %)."
    if len(found) <= _NAMED:
        each = "; ".join(f"{finding.model}: {_short(finding)}" for finding in found)
        return f"{head}. Fewest bits within {TOLERANCE:g} point of FP32 (95 %): {each}."
    return (
        f"{head}: {len(sure)} of the models have a policy that stays within {TOLERANCE:g} point of "
        "FP32 (95 %)."
    )


def _short(finding: Finding) -> str:
    return _named(finding.best) if finding.best else "none for sure"


def sentence(finding: Finding) -> str:
    """The policy of fewest bits that keeps the accuracy of ``finding``'s model, or the nearest to it."""
    if finding.best:
        return f"fewest bits within {TOLERANCE:g} point of FP32 by {verdict(finding)}"
    if finding.maybe:
        return (
            f"none is sure to stay within {TOLERANCE:g} point of FP32; fewest bits measured within "
            f"it by {_result(finding.maybe)}"
        )
    if finding.nearest:
        return (
            f"none stays within {TOLERANCE:g} point of FP32; nearest is {_result(finding.nearest)}"
        )
    return verdict(finding)


def verdict(finding: Finding) -> str:
    """The same in few words, under the heading of the fewest bits within the tolerance."""
    if finding.best:
        return _result(finding.best)
    if finding.maybe:
        return f"none for sure; measured within it {_result(finding.maybe)}"
    return f"none; nearest {_result(finding.nearest)}" if finding.nearest else "no case has passed"


def _named(row: Record) -> str:
    bits = notation.fixed(row["weight_bits"])
    return f"{row['policy']} at {bits} bits a weight" if bits else str(row["policy"])


def _result(row: Record) -> str:
    result = f"{_named(row)}, {notation.fixed(row['top1'])} %"
    if row["top1_drop"] is not None:
        fp32 = notation.fixed(row["fp32_top1"])
        result += f", {_change(row['top1_drop'])} from FP32's {fp32} %"
    low, high = row.get("top1_drop_low"), row.get("top1_drop_high")
    ends = "" if low is None or high is None else f"95 %: {_change(high)} to {_change(low)}"
    images = notation.count(row["images"], "image") if row["images"] is not None else ""
    parts = "; ".join(filter(None, (ends, images)))
    return f"{result} ({parts})" if parts else result


def _change(drop: float) -> str:
    return notation.signed(-drop).replace("-", "−")


def _sizes(rows: list[Record]) -> str:
    """Images of a case, from the fewest to the most."""
    images = [row["images"] for row in rows if row["images"] is not None]
    ends = (min(images), max(images)) if images else ()
    return " to ".join(dict.fromkeys(f"{end:,}" for end in ends))


def _lead_of_layers(run: Run) -> str:
    layers = run.tables["layers"]
    size = notation.count(len(layers), "layer case")
    axes = [notation.count(layers[a].nunique(), a) for a in ("format", "mode", "model")]
    grid = f"{size}: {axes[0]} × {axes[1]} on {axes[2]}"
    groups = [g for g in by_format_and_mode(run) if g["sqnr_db_median"] is not None]
    if not groups:
        return f"{grid}."
    best = max(groups, key=lambda group: group["sqnr_db_median"])
    return (
        f"{grid}. Most exact in the median layer is {best['format']} in mode {best['mode']}, at "
        f"{notation.fixed(best['sqnr_db_median'], 1)} dB."
    )


def key_figures(run: Run) -> list[tuple[str, str, str]]:
    """(figure, what it is, note) of the run, the most telling first; empty ones are left out."""
    outcomes: Counter[str] = Counter()
    compliant: list[bool] = []
    unseen = 0
    for name in ("models", "layers", "formats", "quantizers", "linears", "integers", "norms"):
        if name in run.tables:
            outcomes.update(run.tables[name]["outcome"])
            known = run.tables[name]["compliant"].dropna().tolist()
            compliant += known
            # A table without any verdict is of cases that have nothing to look at.
            unseen += len(run.tables[name]) - len(known) if known else 0
    figures = []
    if cases := outcomes.total():
        share = f"{notation.fixed(100 * outcomes['passed'] / cases, 1)} %"
        worse = ", ".join(f"{outcomes[o]:,} {o}" for o in ("failed", "error") if outcomes[o])
        figures.append((share, "cases passed", worse or f"all {cases:,}"))
    if compliant:
        figures.append(_figure_of_compliance(compliant, unseen))
    return figures + (_figures_of_models(run.models) or _figures_of_layers(run))


def _figure_of_compliance(compliant: list[bool], unseen: int) -> tuple[str, str, str]:
    good, seen = sum(compliant), len(compliant)
    notes = [f"{seen - good:,} off the grid"] if good < seen else []
    notes += [f"{unseen:,} not looked at"] if unseen else []
    return f"{good:,} / {seen:,}", "cases compliant", ", ".join(notes) or f"all {seen:,} looked at"


def _figures_of_layers(run: Run) -> list[tuple[str, str, str]]:
    if "layers" not in run.tables:
        return []
    layers = run.tables["layers"]
    number = len(layers[["model", "layer"]].drop_duplicates())
    figures = [
        (f"{number:,}", "layers", f"of {notation.count(layers['model'].nunique(), 'model')}")
    ]
    sqnr = layers["sqnr_db"].dropna()
    if len(sqnr):
        figures.append(
            (f"{notation.fixed(sqnr.median(), 1)} dB", "median SQNR", "of single layers")
        )
    slow = layers["slowdown"].dropna()
    if len(slow):
        figures.append((f"{notation.fixed(slow.median())} ×", "median time over FP32", "emulated"))
    return figures


def _figures_of_models(rows: list[Record]) -> list[tuple[str, str, str]]:
    checked = [r for r in rows if r["compliant"] is not None and r["checked_values"]]
    images = [row["images"] for row in rows if row["images"] is not None]
    slow = [row["slowdown"] for row in rows if row["slowdown"] is not None]
    figures = []
    if checked:
        values = notation.compact(sum(row["checked_values"] for row in checked))
        figures.append((values, "values checked", f"against the grid, {_strictness(checked)}"))
    if images:
        cases = notation.count(len(images), "case")
        figures.append((_sizes(rows), "images a case", f"{sum(images):,} in {cases}"))
    if slow:
        figures.append((f"{notation.fixed(median(slow))} ×", "median time over FP32", "emulated"))
    return figures


def _strictness(rows: list[Record]) -> str:
    tolerances = dict.fromkeys(looked_at(row)[1] for row in rows)
    return ", ".join(f"within {t}" if t else "exactly" for t in tolerances)
