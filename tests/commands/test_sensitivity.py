"""``qbench sensitivity``: its table, its proposal, and going on after it was killed."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qbench_suite.cli import main
from qbench_suite.commands.sensitivity import layer_rows
from qbench_suite.convert.policy import read_policy
from qbench_suite.engine.layer_sensitivity import LayerSensitivity
from qbench_suite.scaling.compiling import eager


@pytest.fixture(autouse=True)
def uncompiled() -> Iterator[None]:
    """Bits are the same compiled, seconds are not."""
    with eager():
        yield


def table(text: str) -> dict[str, list[str]]:
    rows = [re.split(r"\s{2,}", line) for line in text.splitlines()]
    return {row[0]: row[1:] for row in rows}


def sheet(results: Path, case: str) -> Path:
    """The one table of that model and policy."""
    (found,) = (results / "sensitivity" / case).glob("*/sensitivity.csv")
    return found


def test_a_run_ranks_layers_and_writes_a_policy_that_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "mixed.yaml"
    words = ["sensitivity", "vit", "--policy", "mxfp4", "--images", "2", "--bits", "6"]
    words += ["--candidates", "mxfp4,fp8_e4m3-mx32", "--out", str(out), "--top", "3"]
    assert main([*words, "--results", str(tmp_path)]) == 0
    rows = table(capsys.readouterr().out)
    assert rows["layer"][0] == "type"
    with sheet(tmp_path, "vit-mxfp4").open() as file:
        layers = list(csv.DictReader(file))
    alone = [float(layer["kl_only"]) for layer in layers]
    assert {(a["dataset"], a["images"], a["seed"]) for a in layers} == {("digits", "2", "0")}
    assert all(layer["policy_hash"] for layer in layers)
    assert len(layers) > 20
    assert alone == sorted(alone, reverse=True)
    assert [layer["layer"] in rows for layer in layers[:4]] == [True] * 3 + [False]
    assert rows["float"] == ["32.000", rows["float"][1], "0"]
    bits = {name: float(rows[name][0]) for name in ("mxfp4", "fp8_e4m3-mx32", "mixed")}
    assert bits["mxfp4"] < bits["mixed"] <= 6 < bits["fp8_e4m3-mx32"]
    policy = read_policy(out)
    assert set(policy.formats) == {"fp4_e2m1", "fp8_e4m3"}
    assert main(["policy", "check", str(out), "--model", "vit"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--policy", "mxfp5"], "Did you mean mxfp"),
        (["--policy", "int9-tensor"], "A policy is called by a registered name"),
        (["--policy", "int8-tensr"], "did you mean tensor"),
        (["--policy", "int8-chunk"], "Write the mode whole"),
        (["--policy", "int8-tensor", "--data", "digitz"], "Did you mean digits"),
        (
            ["--policy", "mxfp4", "--candidates", "mxfp4,int8_w8a8_static", "--bits", "5"],
            "same scales",
        ),
        (["--policy", "mxfp4", "--images", "1", "--bits", "3"], "cheapest candidates take"),
    ],
)
def test_a_mistake_is_a_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str], message: str
) -> None:
    assert main(["sensitivity", "vit", *words, "--results", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        *(["--images", "0"], ["--images", "x"], ["--keep", "none"]),
        *(["--bits", bits] for bits in ("nan", "inf", "0", "-4", "many")),
    ],
)
def test_a_wrong_option_ends_it(tmp_path: Path, words: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["sensitivity", "vit", "--policy", "mxfp4", *words])


@pytest.mark.parametrize(
    "words", [["--out", "a.yaml"], ["--candidates", "mxfp4"], ["--keep", "policy"]]
)
def test_options_of_a_mix_ask_for_a_budget(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str]
) -> None:
    words = ["sensitivity", "vit", "--policy", "mxfp4", *words, "--results", str(tmp_path)]
    assert main(words) == 2
    assert f"got {words[4]} without --bits" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("mine.yaml", "is called as the policy 'mine'"),
        ("other.yaml", "goes to a file that is not read"),
        ("link.yaml", "goes to a file that is not read"),
        ("deep/mxfp4.yaml", "is called as the policy 'mxfp4'"),
        ("folder", "is a folder"),
        ("mine.yaml/out.yaml", "Choose another --out"),
    ],
)
def test_a_proposal_takes_no_place_that_is_taken(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, out: str, message: str
) -> None:
    text = "format: fp8_e4m3\nmode: mx32\n"
    mine, other = tmp_path / "mine.yaml", tmp_path / "other.yaml"
    mine.write_text(text)
    other.write_text(f"name: renamed\n{text}")
    (tmp_path / "link.yaml").symlink_to(other)
    (tmp_path / "folder").mkdir()
    words = ["sensitivity", "vit", "--policy", "mxfp4", "--candidates", f"{mine},mxfp4,{other}"]
    words += ["--images", "2", "--bits", "8", "--out", str(tmp_path / out)]
    assert main([*words, "--results", str(tmp_path / "results")]) == 2
    assert message in capsys.readouterr().err
    assert (mine.read_text(), other.read_text()) == (text, f"name: renamed\n{text}")
    assert not (tmp_path / "results").exists(), "nothing is measured"


def test_the_default_name_of_a_proposal_is_no_candidates(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    mine = tmp_path / "mixed_8.yaml"
    mine.write_text("format: fp8_e4m3\nmode: mx32\n")
    words = ["sensitivity", "vit", "--policy", str(mine), "--bits", "8"]
    assert main([*words, "--results", str(tmp_path / "results")]) == 2
    assert "is called as the policy 'mixed_8'" in capsys.readouterr().err


def effects(folder: Path) -> list[str]:
    """Keys of the whole lines of the journal."""
    keys = []
    for path in folder.rglob("effects-*.jsonl"):
        for line in path.read_text().splitlines():
            try:
                keys += [key] if (key := json.loads(line).get("key")) else []
            except ValueError:
                continue
    return keys


def test_a_killed_run_goes_on_where_it_was(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    policy = tmp_path / "few.yaml"
    layers = '{"blocks.[01].mlp.*": {format: fp4_e2m1}, head: {format: int8}}'
    policy.write_text(f"format: none\nmode: mx32\nlayers: {layers}\n")
    words = ["sensitivity", "vit", "--policy", str(policy), "--images", "2"]
    words += ["--results", str(tmp_path)]
    code = (
        "from qbench_suite.scaling.compiling import eager\nfrom qbench_suite.cli import main\n"
        f"with eager(): main({words!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    while len(effects(tmp_path)) < 5 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = effects(tmp_path)
    assert len(before) >= 5
    assert main(words) == 0
    after = effects(tmp_path)
    assert after[: len(before)] == before
    assert len(set(after)) == len(after)
    sites = len(list(csv.DictReader(sheet(tmp_path, "vit-few").open())))
    assert len(after) == 2 + 2 * sites
    assert sites == 5


def test_ranks_by_top1_share_a_place_and_blanks_stay_blank() -> None:
    def layer(name: str, kl: float | None, drop: float | None) -> LayerSensitivity:
        provenance = ("m", "d", 2, 0, 32, "0123")
        return LayerSensitivity(
            "p", name, "Linear", 1000, 10, 4.0, kl, 50.0, drop, kl, None, None, *provenance
        )

    rows = layer_rows([layer("a", 0.5, 1.0), layer("b", 0.1, 2.0), layer("c", None, 1.0)], 9)
    ranks = {row[0]: row[rows[0].index("rank_top1")] for row in rows[1:]}
    assert ranks == {"a": "2", "b": "1", "c": "2"}
    assert rows[3][rows[0].index("kl_only")] == rows[1][rows[0].index("top1_left_out")] == ""
    assert layer_rows([layer("a", 1.0, None)], 9)[1][rows[0].index("rank_top1")] == ""
