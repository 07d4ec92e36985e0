"""Whole-model cases: what a run of them leaves, and what a user's mistakes come to."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.pytest_plugin.conftest import Checkout

#: Models and datasets of the kinds that go wrong, beside one that does not.
PLUGIN = """
import pathlib
import time

import torch
from torch import nn

from qbench_suite import DatasetEntry, ModelEntry, hookimpl


class Images(torch.utils.data.Dataset):
    def __init__(self, count, channels=3, classes=4, slow=False):
        generator = torch.Generator().manual_seed(count)
        self.x = torch.rand(count, channels, 8, 8, generator=generator)
        self.y = torch.randint(classes, (count,), generator=generator).tolist()
        self.slow = slow

    def __len__(self):
        return len(self.y)

    def __getitem__(self, index):
        while self.slow and index >= 12 and pathlib.Path("wait").exists():
            time.sleep(0.02)
        return self.x[index], self.y[index]


class Spoiled(nn.Linear):
    def forward(self, x):
        return super().forward(x) + float("nan")


def build(last=nn.Linear, classes=4):
    def make():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), last(144, classes)
        ).eval()

    return make


@hookimpl
def qbench_register_models(register):
    size = dict(input_size=(3, 8, 8), dataset="images")
    register(ModelEntry(name="small", build=build(), num_classes=4, **size))
    register(ModelEntry(name="other", build=build(classes=7), num_classes=7, **size))
    register(ModelEntry(name="nan", build=build(Spoiled), num_classes=4, **size))


@hookimpl
def qbench_register_datasets(register):
    def entry(name, **kwargs):
        def load(split):
            return Images(0 if name == "untrained" and split == "train" else 20, **kwargs)

        return DatasetEntry(name=name, load=load, num_classes=4)

    register(entry("images"))
    register(entry("gray", channels=1))
    register(entry("untrained"))
    register(entry("slow", slow=True))
"""
GRID = (
    "cases/test_models.py",
    "--qbench-plugin=world.py",
    "--qbench-models=small",
    "--qbench-eval-batch=4",
    "--qbench-rounds=2",
    "--qbench-fp32-cache=none",
    "--qbench-run=a",
)
POLICIES = {
    "fine": "format: fp8_e4m3\nmode: channel\n",
    "coarse": "format: fp4_e2m1\nmode: tensor\nscope: all\nact_format: fp4_e2m1\n",
    "static": "format: int8\nscales: static\nrange: percentile\ncalibration: {images: 8}\n",
    "elsewhere": 'format: int8\nlayers:\n  "blocks.*": {weight_format: int4}\n',
}


@pytest.fixture
def world(checkout: Checkout) -> Checkout:
    checkout.write("world.py", PLUGIN)
    for name, text in POLICIES.items():
        checkout.write(f"{name}.yaml", text)
    return checkout


def policies(*names: str) -> str:
    return "--qbench-policies=" + ",".join(f"{name}.yaml" for name in names)


def test_each_model_and_policy_is_a_case_with_rows_reports_and_latency(world: Checkout) -> None:
    run = world.pytest(*GRID, policies("fine", "coarse", "static"), "--benchmark-json")
    assert run.code == 0, run.output
    assert "3 passed" in run.last_line
    folder = world.run_folder("a")
    rows = folder.table("models").set_index("case")
    assert list(rows.index) == ["small-coarse", "small-fine", "small-static"]
    assert rows["images"].tolist() == [20] * 3
    assert (rows["top1_low"] <= rows["top1"]).all()
    assert (rows["top1"] <= rows["top1_high"]).all()
    assert (rows["fp32_top1"] == rows["fp32_top1"].iloc[0]).all()
    assert rows["sqnr_db"]["small-fine"] > rows["sqnr_db"]["small-coarse"]
    assert rows["compliant"].all()
    assert (rows["checked_values"] > 0).all()
    assert (rows["coverage"] == 1).all()
    assert rows["latency_ms"].notna().all()
    assert rows["arguments"].str.contains("--qbench-models=small", regex=False).all()
    layers = folder.table("model_layers")
    drift = layers[(layers["case"] == "small-fine") & layers["quant_type"].astype(bool)]
    assert drift["layer"].tolist() == ["0", "4"]
    assert drift["sqnr_db"].notna().all()
    assert drift["multiply_adds"].tolist() == [4 * 27 * 36, 144 * 4]
    assert (folder.path / "small" / "fine" / "comparison_report.txt").is_file()
    assert (folder.path / "report.html").stat().st_size < 1_500_000
    entries = {entry["param"]: entry["extra_info"] for entry in folder.benchmarks()}
    assert entries["small-fine"]["policy"] == "fine.yaml"
    assert "models x policies" in run.output


def test_a_step_summary_is_written_where_github_asks_for_it(world: Checkout) -> None:
    summary = world.write("summary.md", "before\n")
    environment = {"GITHUB_STEP_SUMMARY": str(summary)}
    run = world.pytest(*GRID, policies("fine"), environment=environment)
    assert run.code == 0, run.output
    text = summary.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert "fine" in text
    assert "| " in text


def test_policies_alone_select_models_and_nothing_else(world: Checkout) -> None:
    arguments = [argument for argument in GRID if not argument.startswith("cases/")]
    run = world.pytest(*arguments, policies("fine"), "--collect-only", "-q")
    assert "test_model[small-fine]" in run.output
    assert "test_layer" not in run.output
    assert "NOTSET" not in run.output


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("format: fp8_e4m3\nmodes: tensor\n", ["bad.yaml, line 2", "modes", "mode"]),
        ("format: fp9\n", ["bad.yaml, line 1", "fp9"]),
        ("format: int8\nmode: channel\nchunk_size: 32\n", ["bad.yaml, line 3", "chunk_size"]),
        ("format: [int8\n", ["bad.yaml, line"]),
        ("", ["bad.yaml"]),
        ("format: int8\nformat: int4\n", ["bad.yaml, line 2"]),
    ],
)
def test_a_bad_policy_ends_the_run_before_it_begins(
    world: Checkout, text: str, said: list[str]
) -> None:
    world.write("bad.yaml", text)
    run = world.pytest(*GRID, policies("bad"))
    assert run.code == pytest.ExitCode.USAGE_ERROR, run.output
    for part in said:
        assert part in run.output
    assert "Traceback" not in run.output
    assert not world.run_folder("a").path.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((policies("fine", "elsewhere"),), ["elsewhere.yaml, line 3", "blocks.*"]),
        ((policies("fine"), "--qbench-models=small,other"), ["4", "7", "classes"]),
        ((policies("fine"), "--qbench-models=small,nan"), ["NaN"]),
        ((policies("fine", "static"), "--qbench-data=untrained"), ["alibrat", "untrained"]),
    ],
)
def test_a_case_that_cannot_be_measured_costs_no_other(
    world: Checkout, options: tuple[str, ...], said: list[str]
) -> None:
    run = world.pytest(*GRID, *options)
    assert run.code == pytest.ExitCode.TESTS_FAILED, run.output
    assert "1 failed, 1 passed" in run.last_line
    rows = world.run_folder("a").table("models").set_index("case")
    assert rows["outcome"]["small-fine"] == "passed"
    (reason,) = rows.loc[rows["outcome"] != "passed", "reason"]
    for part in said:
        assert part in reason
    assert "Traceback" not in run.output


def test_gray_images_serve_a_model_of_three_channels(world: Checkout) -> None:
    run = world.pytest(*GRID, policies("fine"), "--qbench-data=gray")
    assert run.code == 0, run.output
    assert world.run_folder("a").table("models")["images"].tolist() == [20]


def test_noise_has_no_accuracy_but_agreement(world: Checkout) -> None:
    run = world.pytest(*GRID, policies("fine"), "--qbench-data=random", "--qbench-images=8")
    assert run.code == 0, run.output
    (row,) = world.run_folder("a").table("models").to_dict("records")
    assert row["images"] == 8
    assert row["agreement"] > 0
    assert row["top1"] != row["top1"]


def test_a_killed_evaluation_goes_on_where_it_was(
    world: Checkout, wait_until: Callable[..., Any]
) -> None:
    wait = world.write("wait", "")
    arguments = (*GRID, policies("fine"), "--qbench-data=slow")
    run = world.start(*arguments)
    folder = world.run_folder("a")
    wait_until(lambda: folder.cases("started"))
    time.sleep(1)
    run.kill(signal.SIGINT)
    wait.unlink()
    assert folder.cases("finished") == []
    again = world.pytest(*arguments[:-3], *arguments[-2:], "--qbench-resume=a")
    assert again.code == 0, again.output
    (row,) = folder.table("models").to_dict("records")
    whole = world.pytest(*[a.replace("run=a", "run=b") for a in arguments])
    assert whole.code == 0, whole.output
    (other,) = world.run_folder("b").table("models").to_dict("records")
    for column in ("top1", "images", "kl", "mse", "agreement", "violations", "fp32_top1"):
        assert row[column] == pytest.approx(other[column], rel=1e-12), column
    assert not list((folder.path / "unfinished").glob("*"))
