"""Tables: dtypes, agreement of parquet and CSV, and whatever folder is named."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from qbench_suite import ResultsError, load
from qbench_suite.results import (
    FormatRow,
    Journal,
    LayerRow,
    ModelLayerRow,
    ModelRow,
    QuantizerRow,
    Row,
    read_journals,
    tables_of,
    write_tables,
)

HEADER = {"started_at": "2026-01-01", "torch_version": "2.0.1", "plugins": "a; b"}
ROWS: tuple[Row, ...] = (
    LayerRow(case="a", model="m", mse=1 / 3, sqnr_db=math.inf, violations=0, compliant=True),
    LayerRow(case="b", model="m", mse=None, sqnr_db=-math.inf, reason='says "no", twice\nover'),
    FormatRow(case="f", bits=8, idempotent=False, samples=None, mse=math.nan),
    QuantizerRow(case="q", bytes_moved=1 << 40, gb_per_s=1e-12),
)


def write(folder: Path, *rows: Row, **header: Any) -> Path:
    journal = Journal(folder, {"run": folder.name, **HEADER, **header}, joins=True)
    for row in rows:
        journal.finished(f"{row.table}/{row.case}", row.table, row.to_json())
    journal.close()
    return folder


def test_columns_have_the_dtype_of_what_they_hold(tmp_path: Path) -> None:
    layers = load(write(tmp_path / "r", *ROWS))["layers"]
    assert layers["mse"].dtype == "float64"
    assert layers["violations"].dtype == "Int64"
    assert layers["compliant"].dtype == "boolean"
    assert layers["mse"].tolist()[0] == 1 / 3
    assert layers["sqnr_db"].tolist() == [math.inf, -math.inf]
    assert layers["violations"].isna().tolist() == [False, True]
    assert layers["latency_ms"].isna().all()
    assert layers["reason"].tolist() == ["", 'says "no", twice\nover']
    assert layers["run"].tolist() == ["r", "r"]
    assert layers["plugins"].tolist() == ["a; b", "a; b"]


def test_large_integers_stay_exact(tmp_path: Path) -> None:
    assert load(write(tmp_path, *ROWS))["quantizers"]["bytes_moved"].tolist() == [1 << 40]


def test_tables_without_rows_are_absent(tmp_path: Path) -> None:
    assert sorted(load(write(tmp_path, ROWS[2]))) == ["formats"]
    assert load(write(tmp_path / "empty")) == {}


def test_parquet_csv_and_journal_agree(tmp_path: Path) -> None:
    tables = write_tables(write(tmp_path, *ROWS))
    assert sorted(tables) == ["formats", "layers", "quantizers"]
    for name, table in tables.items():
        parquet = pd.read_parquet(tmp_path / f"{name}.parquet")
        pd.testing.assert_frame_equal(parquet, table, check_dtype=False)
        pd.testing.assert_frame_equal(load(tmp_path)[name], table)
        csv = pd.read_csv(tmp_path / f"{name}.csv", keep_default_na=False, na_values=[""])
        assert list(csv.columns) == list(table.columns)
        for column in table.columns:
            written, held = csv[column], table[column]
            if held.dtype == "float64":
                pd.testing.assert_series_equal(
                    written.astype("float64"), held, check_exact=True, check_dtype=False
                )
            else:
                text = ["" if pd.isna(v) else str(v) for v in held]
                assert ["" if pd.isna(v) else str(v).removesuffix(".0") for v in written] == text


def test_modules_left_float_are_a_table(tmp_path: Path) -> None:
    journal = Journal(tmp_path, HEADER)
    journal.left_float("m", [{"module": "pool", "module_type": "Pool", "reason": "none"}])
    journal.close()
    table = load(tmp_path)["left_float"]
    assert table.to_dict("records") == [
        {"model": "m", "module": "pool", "module_type": "Pool", "reason": "none"}
    ]


def test_runs_of_a_folder_are_joined(tmp_path: Path) -> None:
    write(tmp_path / "r1", *ROWS[:2])
    write(tmp_path / "r2", *ROWS)
    (tmp_path / "notes").mkdir()
    (tmp_path / "README.md").write_text("")
    tables = load(str(tmp_path))
    assert tables["layers"]["run"].tolist() == ["r1", "r1", "r2", "r2"]
    assert tables["formats"]["run"].tolist() == ["r2"]
    assert tables["layers"].index.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["absent", "file", "empty"])
def test_what_is_no_run_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ResultsError, match=name):
        load(tmp_path / name)


def test_rows_of_an_older_suite_lack_columns_and_have_others(tmp_path: Path) -> None:
    folder = write(tmp_path, ROWS[0])
    (file,) = folder.glob("journal-*.jsonl")
    old = {"case": "o", "model": "m", "mse": 2.0, "gone_since": 1}
    record = {"event": "finished", "case": "layers/o", "table": "layers", "row": old}
    with file.open("a", encoding="utf-8") as journal:
        journal.write(json.dumps(record) + "\n")
        journal.write(json.dumps(record | {"case": "x/o", "table": "no_such_table"}) + "\n")
    layers = load(folder)["layers"].set_index("case")
    assert layers.loc["o", "mse"] == 2.0
    assert layers.loc["o", "outcome"] == "error", "what no row says is the default"
    assert layers["rounds"].isna()["o"]
    assert "gone_since" not in layers.columns


def test_rows_whose_header_was_lost_have_no_run(tmp_path: Path) -> None:
    folder = write(tmp_path, ROWS[0])
    (file,) = folder.glob("journal-*.jsonl")
    file.write_bytes(file.read_bytes().split(b"\n", 1)[1])
    assert load(folder)["layers"]["run"].tolist() == [""]


def test_each_row_has_the_facts_of_its_own_process(tmp_path: Path) -> None:
    write(tmp_path, ROWS[0], torch_version="2.1")
    write(tmp_path, ROWS[1], torch_version="2.2")
    assert tables_of(read_journals(tmp_path))["layers"]["torch_version"].tolist() == ["2.1", "2.2"]


def test_without_pyarrow_there_is_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*arguments: object, **options: object) -> None:
        raise ImportError("pyarrow")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", absent)
    write_tables(write(tmp_path, *ROWS))
    assert sorted(p.name for p in tmp_path.glob("*.parquet")) == []
    assert len(list(tmp_path.glob("*.csv"))) == 3


def test_full_disk_leaves_the_journals_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    with pytest.raises(ResultsError, match="No space left") as caught:
        write_tables(write(tmp_path, *ROWS))
    assert f"qbench_suite.load({str(tmp_path)!r})" in str(caught.value)
    assert len(load(tmp_path)["layers"]) == 2


def test_loading_needs_no_torch() -> None:
    script = "import sys, qbench_suite; qbench_suite.load; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_details_are_tables_of_their_own_and_follow_the_last_row(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run", {"run": "run", **HEADER})
    row = ModelRow(case="m-p", model="m", policy="p", top1=50.0)
    for layers in (["x", "y", "z"], ["x", "y"]):
        row.details = [
            ModelLayerRow(case=row.case, layer=layer, sqnr_db=math.inf) for layer in layers
        ]
        journal.finished("models/m-p", row.table, row.to_json(), row.details_to_json())
    journal.close()
    tables = load(tmp_path / "run")
    assert list(tables) == ["models", "model_layers"]
    layers_table = tables["model_layers"]
    assert layers_table["layer"].tolist() == ["x", "y"]
    assert layers_table["sqnr_db"].tolist() == [math.inf, math.inf]
    assert layers_table["run"].tolist() == ["run", "run"]
    assert layers_table["violations"].dtype == "Int64"
    assert tables["models"]["top1"].tolist() == [50.0]
