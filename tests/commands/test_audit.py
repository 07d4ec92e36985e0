"""``qbench audit``: its report and its exit status."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qbench_suite.cli import main

PLUGIN = '''
"""A method that makes the blocks of a model integer, or only pretends to."""
import copy

import torch
from torch import nn

from qbench_suite import IntegerBlock, IntegerMethod, IntegerModel, ModelEntry, hookimpl


class Double(nn.Module):
    def forward(self, x):
        return x + x


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Double(), Double())

    def forward(self, x):
        return self.blocks(x).flatten(1)[:, :5]


class Codes(IntegerBlock):
    def forward(self, codes):
        return codes + codes

    def quantize_input(self, x):
        return (x * 16).round().to(torch.int16)

    def dequantize_output(self, codes):
        return codes / 16

    def stages(self, codes):
        return {"sum": self(codes) / 16}

    def float_stages(self, x):
        return {"sum": x + x}


class Pretending(Codes):
    def forward(self, codes):
        return (codes.float() * 2).to(torch.int16)


def method(name, kind):
    def convert(model, batches):
        return IntegerModel(copy.deepcopy(model), {f"blocks.{i}": kind() for i in range(2)}, {})

    return IntegerMethod(name=name, convert=convert)


@hookimpl
def qbench_register_integer_methods(register):
    register(method("sound", Codes))
    register(method("pretending", Pretending))


@hookimpl
def qbench_register_models(register):
    register(ModelEntry(name="tiny", build=Net, input_size=(3, 4, 4), num_classes=5))
'''


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    file = tmp_path / "pretending_plugin.py"
    file.write_text(PLUGIN, encoding="utf-8")
    return str(file)


def test_blocks_in_integers_are_a_success(plugin: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "model", "tiny", "sound", "--plugin", plugin]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("blocks.0, Codes: integer only\ndispatch: 0 floats in 1 operations")
    assert "blocks.1" not in printed, "both have one structure"


def test_blocks_with_floats_are_a_failure(plugin: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "model", "tiny", "pretending", "--plugin", plugin]) == 1
    assert "aten.mul.Tensor: takes" in capsys.readouterr().out


def test_an_unknown_method_is_a_mistake(plugin: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "model", "tiny", "sund", "--plugin", plugin]) == 2
    assert "sound" in capsys.readouterr().err


def test_a_library_with_floats_and_one_that_is_not_there_fail(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (library,) = Path(np.linalg.__file__).parent.glob("_umath_linalg*.so")
    assert main(["audit", "library", str(library), str(tmp_path / "absent.so")]) == 1
    printed = capsys.readouterr().out
    assert "floats in" in printed
    assert "disassembly of absent.so: not run, there is no such file" in printed
