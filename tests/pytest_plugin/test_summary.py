"""The tables at the end of a run, of rows that would take long to measure."""

from __future__ import annotations

from pathlib import Path

from qbench_suite.pytest_plugin.summary import _integers, _linears, _norms
from qbench_suite.results import (
    IntegerRow,
    Journal,
    LinearRow,
    NormRow,
    Row,
    read_journals,
    tables_of,
)


def tables(folder: Path, *rows: Row) -> dict[str, list[dict[str, object]]]:
    journal = Journal(folder, {"run": "r"})
    for row in rows:
        journal.finished(row.case, row.table, row.to_json())
    journal.close()
    found = tables_of(read_journals(folder))
    shown = {"integers": _integers, "linears": _linears, "norms": _norms}
    return {name: shown[name](table).to_dict("records") for name, table in found.items()}


def test_integer_cases_are_sorted_with_short_names_of_models(tmp_path: Path) -> None:
    rows = [
        IntegerRow(
            case=m, model=m, method=n, outcome="passed", blocks=3, top1=71.0, speedup_fp32=5.0
        )
        for m, n in (("vit", "b"), ("timm:deit@some/folder/best.pth", "a"), ("vit", "a"))
    ]
    for row, case in zip(rows, "abc", strict=True):
        row.case = case
    found = tables(tmp_path, *rows)["integers"]
    assert [(r["model"], r["method"]) for r in found] == [
        ("timm:deit", "a"), ("vit", "a"), ("vit", "b"),
    ]  # fmt: skip
    assert (found[0]["over_fp32"], found[0]["top1"], found[0]["blocks"]) == (5.0, 71.0, 3)
    assert len(set(found[0])) == 14


def test_linear_cases_are_sorted_by_size_layer_dtype_and_rows(tmp_path: Path) -> None:
    rows = [
        LinearRow(
            case=f"{size}{rows}", entry="a", dtype="float32", rows=rows, in_features=size,
            out_features=8, speedup_fp32=2.5,
        )
        for size, rows in ((4, 256), (2, 16), (4, 4))
    ]  # fmt: skip
    found = tables(tmp_path, *rows)["linears"]
    assert [(r["size"], r["rows"]) for r in found] == [("8x2", 16), ("8x4", 4), ("8x4", 256)]
    assert found[0]["over_fp32"] == 2.5


def test_norm_cases_are_sorted_by_operation_shape_dtype_and_kernel(tmp_path: Path) -> None:
    axes = (("b", "8x8", "x"), ("a", "8x8", "y"), ("a", "4x4", "x"), ("a", "8x8", "x"))
    rows = [
        NormRow(case=str(n), operation=operation, shape=shape, provider=provider, gb_per_s=2.5)
        for n, (operation, shape, provider) in enumerate(axes)
    ]
    found = tables(tmp_path, *rows)["norms"]
    assert [(r["operation"], r["shape"], r["kernel"]) for r in found] == [
        ("a", "4x4", "x"), ("a", "8x8", "x"), ("a", "8x8", "y"), ("b", "8x8", "x"),
    ]  # fmt: skip
    assert found[0]["gb_per_s"] == 2.5
