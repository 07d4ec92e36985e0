"""The plugin as the suite meets it: hooks, entries and ``qbench zoo``."""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import qbench_zoo
from qbench_suite import DatasetEntry, ModelEntry
from qbench_zoo.architectures import ARCHITECTURES, INPUT_SIZE
from qbench_zoo.card import read_card
from qbench_zoo.digits import load
from qbench_zoo.progress import epochs_shown
from qbench_zoo.weights import PACKAGE, load_model


def run_zoo(*arguments: str) -> int:
    """Run ``qbench zoo`` with ``arguments`` and return its exit status."""
    parser = argparse.ArgumentParser(prog="qbench")
    qbench_zoo.qbench_cli_commands(commands=parser.add_subparsers(required=True))
    chosen = parser.parse_args(["zoo", *arguments])
    return int(chosen.run(chosen))


def test_models_are_registered_for_the_default_grid() -> None:
    entries: list[ModelEntry] = []
    qbench_zoo.qbench_register_models(register=entries.append)
    assert [entry.name for entry in entries] == sorted(ARCHITECTURES)
    for entry in entries:
        assert entry.default
        assert (entry.dataset, entry.input_size, entry.num_classes) == ("digits", INPUT_SIZE, 10)
        assert len(entry.mean) == len(entry.std) == 1
        assert not entry.build().training


def test_digits_are_registered() -> None:
    entries: list[DatasetEntry] = []
    qbench_zoo.qbench_register_datasets(register=entries.append)
    (entry,) = entries
    assert (entry.name, entry.num_classes) == ("digits", 10)
    assert entry.load("test") is load("test")


def test_registering_imports_no_heavy_library() -> None:
    script = (
        "import argparse, sys, qbench_zoo as zoo\n"
        "zoo.qbench_register_models(register=print)\n"
        "zoo.qbench_register_datasets(register=print)\n"
        "zoo.qbench_cli_commands(commands=argparse.ArgumentParser().add_subparsers())\n"
        "assert not {'torch', 'timm', 'sklearn', 'rich'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


def test_train_writes_weights_and_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("train", "efficientnet", "--epochs", "1", "--seed", "3", "--out", str(tmp_path))
    assert run_zoo(*arguments) == 0
    card = read_card("efficientnet", tmp_path)
    assert (card.recipe["epochs"], card.recipe["seed"], card.recipe["threads"]) == (1, 3, 1)
    assert not load_model("efficientnet", tmp_path).training
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("efficientnet: epoch 1 of 1, loss ")
    assert last.startswith(f"efficientnet: {card.top1:.1f} % of 500 held-out digits, ")
    assert run_zoo(*arguments) == 0
    assert read_card("efficientnet", tmp_path).sha256 == card.sha256


def test_evaluate_agrees_with_the_card(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_zoo("evaluate", "resnet") == 0
    top1 = read_card("resnet").top1
    assert capsys.readouterr().out == (
        f"resnet: {top1:.1f} % of the held-out digits, card {top1:.1f} %\n"
    )


def test_evaluate_fails_on_weights_that_are_not_the_cards(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("qbench_zoo.card.sha256", lambda _: "0" * 64)
    assert run_zoo("evaluate", "resnet") == 1
    assert "these are not the weights the card was written for" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("train", "vgg"), "convnext"),
        (("train", "vit", "--epochs", "0"), "must be 1 or more; got 0"),
        (("train", "vit", "--threads", "-1"), "must be 1 or more; got -1"),
        (("explode", "vit"), "train"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run_zoo(*arguments)
    assert stop.value.code == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize("epochs", [1, 10, 25])
def test_plain_progress_is_at_most_ten_lines_and_ends_with_the_last_epoch(epochs: int) -> None:
    out = io.StringIO()
    with epochs_shown("vit", epochs, Console(file=out, width=80)) as report:
        for epoch in range(1, epochs + 1):
            report(epoch, 0.5)
    lines = out.getvalue().splitlines()
    assert len(lines) <= 10
    assert lines[-1] == f"vit: epoch {epochs} of {epochs}, loss 0.500"


def test_a_terminal_gets_a_bar() -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True)
    with epochs_shown("vit", 2, console) as report:
        report(1, 0.75)
        report(2, 0.25)
    assert "2/2" in out.getvalue()
    assert "loss 0.250" in out.getvalue()


def test_modules_stay_small() -> None:
    lengths = sorted(len(path.read_text().splitlines()) for path in PACKAGE.glob("*.py"))
    assert lengths[-1] <= 300
    assert lengths[len(lengths) // 2] <= 120
