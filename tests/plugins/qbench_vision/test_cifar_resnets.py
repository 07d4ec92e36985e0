"""ResNets for CIFAR: shape, sizes published, shortcut, checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qbench_suite import ModelError
from qbench_suite.manager import Manager
from qbench_vision.cifar_resnets import DEPTHS, Block, CifarResNet


@pytest.mark.parametrize(
    ("model", "millions"),
    [
        ("resnet20", 0.27),
        ("resnet32", 0.46),
        ("resnet44", 0.66),
        ("resnet56", 0.85),
        ("resnet110", 1.7),
    ],
)
def test_sizes_are_those_of_the_paper(model: str, millions: float) -> None:
    built = CifarResNet(DEPTHS[model])
    count = sum(parameter.numel() for parameter in built.parameters()) / 1e6
    assert count == pytest.approx(millions, rel=0.02)
    layers = [name for name, p in built.named_parameters() if p.ndim > 1]
    assert len(layers) == int(model.removeprefix("resnet"))


def test_keys_of_a_block() -> None:
    keys = {key.rpartition(".")[0] for key in CifarResNet(3).state_dict()}
    blocks = {
        f"layer{stage}.{block}.{part}"
        for stage in (1, 2, 3)
        for block in range(3)
        for part in ("conv1", "bn1", "conv2", "bn2")
    }
    assert keys == {"conv1", "bn1", "linear", *blocks}


def test_shortcut_takes_every_other_pixel_and_adds_zero_channels() -> None:
    block = Block(2, 4).eval()
    torch.nn.init.zeros_(block.bn2.weight)
    x = torch.rand(1, 2, 4, 6)
    expected = torch.zeros(1, 4, 2, 3)
    expected[:, 1:3] = x[:, :, ::2, ::2]
    with torch.inference_mode():
        assert torch.equal(block(x), expected)
        same = Block(2, 2).eval()
        torch.nn.init.zeros_(same.bn2.weight)
        assert torch.equal(same(x), x)


def test_random_weights(manager: Manager) -> None:
    entry = manager.models.get("cifar:resnet20")
    assert (entry.input_size, entry.num_classes) == ((3, 32, 32), 10)
    first, second = entry.build(), entry.build()
    assert not first.training
    image = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        assert first(image).shape == (2, 10)
        assert torch.equal(first(image), second(image))


def test_file_tells_classes(manager: Manager, tmp_path: Path) -> None:
    saved = CifarResNet(5, num_classes=100).eval()
    save_file(saved.state_dict(), tmp_path / "x.safetensors")
    entry = manager.models.get(f"cifar:resnet32@{tmp_path / 'x.safetensors'}")
    assert entry.num_classes == 100
    image = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(entry.build()(image), saved(image))


def test_what_dataparallel_saved(manager: Manager, tmp_path: Path) -> None:
    state = {f"module.{k}": v for k, v in CifarResNet(3).state_dict().items()}
    torch.save({"state_dict": state, "best_prec1": 91.7}, tmp_path / "x.th")
    assert manager.models.get(f"cifar:resnet20@{tmp_path / 'x.th'}").build()


def test_other_depths(manager: Manager, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"one of resnet20, .*; got 'resnet21'. Did you mean"):
        manager.models.get("cifar:resnet21")
    save_file(CifarResNet(5).state_dict(), tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match=r"x\.safetensors as resnet20 for CIFAR: .* unexpected"):
        manager.models.get(f"cifar:resnet20@{tmp_path / 'x.safetensors'}").build()
