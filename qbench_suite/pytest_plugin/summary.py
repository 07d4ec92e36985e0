"""The table at the end of a run: what each format costs in each mode, and where it hurts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from qbench_suite.errors import ResultsError
from qbench_suite.report.naming import short_names

if TYPE_CHECKING:
    import pandas as pd

    from qbench_suite.pytest_plugin.recorder import Recorder

_WORST = 10


def summarise(
    terminal: pytest.TerminalReporter, recorder: Recorder, interrupted: bool = False
) -> None:
    """Print the tables of the run, where it lies, and how to go on where it was interrupted."""
    tables = _tables(recorder)
    _print_tables(terminal, tables)
    for remark in recorder.remarks:
        terminal.write_line(remark, yellow=True)
    if recorder.lost:
        terminal.write_line(recorder.lost, red=True)
    if recorder.complete:
        terminal.write_line(f"{recorder.folder.name} has finished every case selected.")
    elif interrupted and tables and not recorder.lost:
        terminal.write_line(
            f"go on with the same options and --qbench-resume {recorder.folder.name}"
        )
    if tables:
        terminal.write_line(f"results: {recorder.folder}")


def _print_tables(terminal: pytest.TerminalReporter, tables: dict[str, pd.DataFrame]) -> None:
    if "models" in tables:
        _print(terminal, "models x policies", _by_policy(tables["models"]))
    if "integers" in tables:
        _print(terminal, "models in integers", _integers(tables["integers"]))
    if "linears" in tables:
        _print(terminal, "linear layers in low precision", _linears(tables["linears"]))
    if "norms" in tables:
        _print(terminal, "norm kernels", _norms(tables["norms"]))
    if "layers" in tables:
        _print(terminal, "format x mode over all layers", _by_format_and_mode(tables["layers"]))
        _print(terminal, f"worst {_WORST} layers", _worst(tables["layers"]))
    if "quantizers" in tables:
        _print(terminal, "throughput of fake-quantize", _throughput(tables["quantizers"]))
    if "formats" in tables and "layers" not in tables:
        _print(terminal, "formats: SQNR in dB by distribution", _by_distribution(tables["formats"]))
    if "left_float" in tables:
        _print(terminal, "left in float: no registered layer", _left_float(tables["left_float"]))


def _tables(recorder: Recorder) -> dict[str, pd.DataFrame]:
    from qbench_suite.results import tables_of

    if not recorder.recorded:
        return {}
    try:
        return tables_of(recorder.contents())
    except ResultsError:
        return {}


def _by_policy(models: pd.DataFrame) -> pd.DataFrame:
    columns = {
        "model": "model",
        "policy": "policy",
        "weight_bits": "bits",
        "fp32_top1": "fp32_top1",
        "top1": "top1",
        "top1_low": "low",
        "top1_high": "high",
        "agreement": "agreement",
        "sqnr_db": "sqnr_db",
        "coverage": "coverage",
        "compliant": "compliant",
        "slowdown": "slowdown",
        "outcome": "outcome",
    }
    table = models[list(columns)].rename(columns=columns).sort_values(["model", "policy"])
    return table.assign(model=table["model"].map(short_names(table["model"].unique())))


def _integers(integers: pd.DataFrame) -> pd.DataFrame:
    columns = {
        "model": "model",
        "method": "method",
        "blocks": "blocks",
        "integer_only": "no_float",
        "fp32_top1": "fp32_top1",
        "top1": "top1",
        "top1_low": "low",
        "top1_high": "high",
        "branch_sqnr_db": "branch_db",
        "speedup_fp32": "over_fp32",
        "speedup_bf16": "over_bf16",
        "speedup_bf16_compiled": "over_compiled",
        "model_speedup": "whole_model",
        "outcome": "outcome",
    }
    table = integers.sort_values(["model", "method"])[list(columns)]
    table["model"] = table["model"].map(short_names(table["model"].unique()))
    return table.set_axis(list(columns.values()), axis=1)


def _linears(linears: pd.DataFrame) -> pd.DataFrame:
    columns = {
        "entry": "entry",
        "dtype": "dtype",
        "size": "size",
        "rows": "rows",
        "kernel": "kernel",
        "latency_ms": "latency_ms",
        "speedup_fp32": "over_fp32",
        "speedup_bf16": "over_bf16",
        "compression": "smaller",
        "sqnr_db": "sqnr_db",
        "outcome": "outcome",
    }
    sizes = linears["out_features"].astype(str) + "x" + linears["in_features"].astype(str)
    table = linears.assign(size=sizes).sort_values(["size", "entry", "dtype", "rows"])
    return table[list(columns)].rename(columns=columns)


def _norms(norms: pd.DataFrame) -> pd.DataFrame:
    columns = {
        "operation": "operation",
        "shape": "shape",
        "dtype": "dtype",
        "provider": "kernel",
        "latency_ms": "latency_ms",
        "gb_per_s": "gb_per_s",
        "copy_share": "of_copy",
        "speedup_torch": "over_torch",
        "max_ulp": "ulp",
        "torch_max_ulp": "torch_ulp",
        "deterministic": "same_bits",
        "outcome": "outcome",
    }
    table = norms.sort_values(["operation", "shape", "dtype", "provider"])
    return table[list(columns)].rename(columns=columns)


def _by_format_and_mode(layers: pd.DataFrame) -> pd.DataFrame:
    groups = layers.groupby(["format", "mode"], sort=True)
    return groups.agg(
        layers=("case", "size"),
        passed=("outcome", lambda outcome: int((outcome == "passed").sum())),
        compliant=("compliant", lambda c: f"{int(c.fillna(False).sum())}/{len(c)}"),
        sqnr_db_median=("sqnr_db", "median"),
        sqnr_db_worst=("sqnr_db", "min"),
        bits=("input_bits_per_value", "median"),
        slowdown=("slowdown", "median"),
    ).reset_index()


def _worst(layers: pd.DataFrame) -> pd.DataFrame:
    columns = ["sqnr_db", "model", "layer", "layer_type", "format", "mode", "outcome"]
    return layers.nsmallest(_WORST, "sqnr_db")[columns]


def _throughput(quantizers: pd.DataFrame) -> pd.DataFrame:
    columns = ["format", "mode", "gelem_per_s", "gb_per_s", "copy_ratio", "eager_ratio", "outcome"]
    return quantizers[columns].sort_values(["format", "mode"])


def _by_distribution(formats: pd.DataFrame) -> pd.DataFrame:
    table = formats.pivot_table(index="format", columns="distribution", values="sqnr_db")
    return table.reset_index()


def _left_float(modules: pd.DataFrame) -> pd.DataFrame:
    counts = modules.groupby(["model", "module_type", "reason"], sort=True).size()
    return counts.rename("modules").reset_index()


def _print(terminal: pytest.TerminalReporter, title: str, table: pd.DataFrame) -> None:
    terminal.section(title)
    rows = [[_text(value) for value in row] for row in table.itertuples(index=False)]
    names = [str(name) for name in table.columns]
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    numeric = [table[name].dtype.kind in "iuf" for name in table.columns]
    for row in (names, *rows):
        cells = (
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, numeric, strict=True)
        )
        terminal.write_line("  ".join(cells).rstrip())


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.2f}"
    return str(value)
