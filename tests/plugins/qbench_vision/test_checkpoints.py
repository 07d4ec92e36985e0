"""Checkpoint files: what loads, what is refused, and what is said then."""

from __future__ import annotations

import argparse
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from qbench_suite import ModelError
from qbench_vision.checkpoints import load_strictly, read_checkpoint


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def assert_same(tensors: dict[str, torch.Tensor], module: nn.Module) -> None:
    expected = module.state_dict()
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[key], expected[key]) for key in expected)


def test_safetensors(tmp_path: Path) -> None:
    module, file = network(), tmp_path / "x.safetensors"
    save_file(module.state_dict(), file)
    assert_same(read_checkpoint(file), module)


@pytest.mark.parametrize("name", ["x.pth", "x.pt", "x.bin", "x.pth.tar"])
@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_saves(tmp_path: Path, name: str, zipped: bool) -> None:
    module, file = network(), tmp_path / name
    torch.save(module.state_dict(), file, _use_new_zipfile_serialization=zipped)
    assert_same(read_checkpoint(file), module)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "optimizer": {"lr": 0.1}},
        lambda state: {"state_dict_ema": state, "state_dict": {"other": torch.zeros(1)}},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {"state_dict": state, "args": argparse.Namespace(lr=0.1), "arch": "x"},
        lambda state: OrderedDict((f"module.{key}", value) for key, value in state.items()),
        lambda state: {f"module._orig_mod.{key}": value for key, value in state.items()},
        lambda state: {"model": {f"module.{key}": value for key, value in state.items()}},
    ],
    ids=["state_dict", "model", "ema", "twice", "namespace", "prefix", "compiled", "both"],
)
def test_nested_and_prefixed(tmp_path: Path, wrap: Any) -> None:
    module, file = network(), tmp_path / "x.pth"
    torch.save(wrap(dict(module.state_dict())), file)
    assert_same(read_checkpoint(file), module)


def test_nan_and_infinity_load(tmp_path: Path) -> None:
    module, file = network(), tmp_path / "x.pth"
    state = module.state_dict()
    state["0.bias"][:2] = torch.tensor([float("nan"), float("inf")])
    torch.save(state, file)
    load_strictly(module, read_checkpoint(file), "x")
    assert module.state_dict()["0.bias"][0].isnan()
    assert module.state_dict()["0.bias"][1].isinf()


def test_half_precision_is_widened(tmp_path: Path) -> None:
    module, file = network(), tmp_path / "x.safetensors"
    save_file({k: v.bfloat16() for k, v in module.state_dict().items()}, file)
    load_strictly(module, read_checkpoint(file), "x")
    assert {p.dtype for p in module.parameters()} == {torch.float32}


def test_missing_counter_of_batch_norm_is_forgiven() -> None:
    state = dict(network().state_dict())
    del state["1.num_batches_tracked"]
    load_strictly(network(), state, "x")


class Evil:
    """Unpickling it would make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_that_wants_code_is_refused(tmp_path: Path, zipped: bool) -> None:
    file, made = tmp_path / "x.pth", tmp_path / "made"
    torch.save({"w": Evil(made)}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match=r"not code; .* wants \w+\.mkdir to run and is refused"):
        read_checkpoint(file)
    assert not made.exists()


def test_whole_module_is_refused(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "x.pth")
    with pytest.raises(
        ModelError, match=r"Sequential to run and is refused.*save model.state_dict"
    ):
        read_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
@pytest.mark.parametrize("damage", ["empty", "noise", "cut", "text"])
def test_damaged_files(tmp_path: Path, name: str, damage: str) -> None:
    file = tmp_path / name
    save: Any = save_file if name.endswith("safetensors") else torch.save
    save(network().state_dict(), file)
    whole = file.read_bytes()
    content = {
        "empty": b"",
        "noise": bytes(range(256)) * 4,
        "cut": whole[: len(whole) // 2],
        "text": b"version https://git-lfs.github.com/spec/v1\n",
    }
    file.write_bytes(content[damage])
    with pytest.raises(ModelError, match=r"A checkpoint is readable; .* is not .* Copy or save"):
        read_checkpoint(file)


def test_advice_to_load_unsafely_is_not_passed_on(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(b"x" * 100)
    with pytest.raises(ModelError) as error:
        read_checkpoint(tmp_path / "x.pth")
    assert "weights_only" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "held"),
    [
        ([1, 2], "a list"),
        ({"epoch": 3, "lr": 0.1}, "the keys 'epoch', 'lr'"),
        ({}, "nothing"),
        ({"state_dict": {}}, "the keys 'state_dict'"),
    ],
)
def test_files_without_tensors(tmp_path: Path, content: object, held: str) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ModelError, match=f"holds {held}. Save model.state_dict"):
        read_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("name", "found"), [("absent.pth", "does not exist"), (".", "is a folder")]
)
def test_missing_files(tmp_path: Path, name: str, found: str) -> None:
    with pytest.raises(
        ModelError, match=rf"A checkpoint is a file; .* {found}. Check the path; .*\+pretrained"
    ):
        read_checkpoint(tmp_path / name)


def test_every_misfit_is_counted_and_named() -> None:
    state = dict(network().state_dict())
    state["0.weight"] = state["0.weight"].to(torch.int8)
    state["1.weight"] = torch.zeros(5)
    del state["0.bias"]
    state |= {f"extra{i}": torch.zeros(1) for i in range(6)}
    with pytest.raises(ModelError) as error:
        load_strictly(network(), state, "x.pth as a test")
    assert str(error.value) == (
        "A checkpoint holds the tensors of its architecture, no more and no less; x.pth as a test: "
        "1 missing (0.bias); 6 unexpected (extra0, extra1, extra2, extra3, …); "
        "2 unfit (0.weight is int8 (4, 3) not float32 (4, 3), 1.weight is float32 (5,) not float32 "
        "(4,)). Name the architecture it was saved from."
    )
