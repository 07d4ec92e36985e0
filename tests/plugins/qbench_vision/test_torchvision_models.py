"""Models of torchvision: random, published, from a file."""

from __future__ import annotations

import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torchvision import models

from qbench_suite import ModelError
from qbench_suite.manager import Manager
from qbench_vision.torchvision_models import HEAD


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of published weights, empty and cut off from the network."""

    def unreachable(*_arguments: Any, **_options: Any) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("model", "side"),
    [("resnet18", 224), ("squeezenet1_1", 224), ("googlenet", 224), ("inception_v3", 299)],
)
def test_random_weights(
    manager: Manager, model: str, side: int, recwarn: pytest.WarningsRecorder
) -> None:
    entry = manager.models.get(f"torchvision:{model}")
    assert (entry.name, entry.dataset) == (f"torchvision:{model}", "random")
    assert (entry.input_size, entry.num_classes) == ((3, side, side), 1000)
    assert entry.mean == (0.485, 0.456, 0.406)
    module = entry.build()
    assert not module.training
    with torch.inference_mode():
        assert module(torch.randn(1, 3, 96, 96)).shape == (1, 1000)
    assert not any("aux" in name.lower() for name, _ in module.named_modules())
    assert not [w for w in recwarn if "init" in str(w.message)]


def test_random_weights_are_the_same_every_time(manager: Manager) -> None:
    build = manager.models.get("torchvision:shufflenet_v2_x0_5").build
    before = torch.get_rng_state()
    first, second = build().state_dict(), build().state_dict()
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_unknown_model(manager: Manager) -> None:
    with pytest.raises(ModelError, match=r"got 'resnt50'. Did you mean resnet50"):
        manager.models.get("torchvision:resnt50")
    with pytest.raises(ModelError, match=r"one of its .* classifiers; got 'fcn_resnet50'"):
        manager.models.get("torchvision:fcn_resnet50")


def test_published_weights_without_network(manager: Manager, hub: Path) -> None:
    entry = manager.models.get("torchvision:resnet18+pretrained")
    with pytest.raises(ModelError) as error:
        entry.build()
    assert str(hub) in str(error.value)
    assert "Put https://download.pytorch.org/models/resnet18-f37072fd.pth there" in str(error.value)


@pytest.mark.parametrize(
    ("model", "file", "options"),
    [
        ("squeezenet1_1", "squeezenet1_1-b8a52dc0.pth", {}),
        ("googlenet", "googlenet-1378be20.pth", {"init_weights": False}),
        ("inception_v3", "inception_v3_google-0cc3c7bd.pth", {"init_weights": False}),
    ],
)
def test_published_weights_in_their_folder(
    manager: Manager, hub: Path, model: str, file: str, options: dict[str, Any]
) -> None:
    saved = models.get_model(model, **options)
    torch.save(saved.state_dict(), hub / file)
    published = manager.models.get(f"torchvision:{model}+pretrained").build()
    from_file = manager.models.get(f"torchvision:{model}@{hub / file}").build()
    image = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        assert torch.equal(published(image), from_file(image))
    for module in (published, from_file):
        assert not any("aux" in name.lower() for name, _ in module.named_modules())


def test_file_tells_classes(manager: Manager, tmp_path: Path) -> None:
    file = tmp_path / "mine.pth"
    saved = models.get_model("shufflenet_v2_x0_5", num_classes=5).eval()
    torch.save({"model": {f"module.{k}": v for k, v in saved.state_dict().items()}}, file)
    entry = manager.models.get(f"torchvision:shufflenet_v2_x0_5@{file}")
    assert entry.num_classes == 5
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(entry.build()(image), saved(image))


@pytest.mark.parametrize(
    "model",
    [
        "alexnet",
        "convnext_tiny",
        "densenet121",
        "maxvit_t",
        "mobilenet_v3_small",
        "swin_t",
        "vit_b_16",
    ],
)
def test_head_of_every_kind_of_model(model: str) -> None:
    with torch.device("meta"):
        tensors = models.get_model(model, num_classes=5).state_dict()
    assert tensors[max(filter(HEAD.fullmatch, tensors))].shape[0] == 5


def test_published_weights_bring_their_preprocessing(manager: Manager) -> None:
    usual = "center crop 224, mean 0.485/0.456/0.406, std 0.229/0.224/0.225"
    published = manager.models.get("torchvision:resnet50+pretrained")
    assert published.preprocessing == f"resize 232 bilinear, {usual}"
    assert manager.models.get("torchvision:resnet50").preprocessing == (
        f"resize 256 bilinear, {usual}"
    )
    assert published.transform
    expected = models.ResNet50_Weights.IMAGENET1K_V2.transforms()
    image = Image.effect_noise((300, 200), 80).convert("RGB")
    assert torch.equal(published.transform()(image), expected(image))


@pytest.mark.parametrize(
    ("file", "resize"),
    [("resnet50-0676ba61.pth", 256), ("resnet50-11ad3fa6.pth", 232), ("mine.pth", 256)],
)
def test_file_called_like_published_weights(
    manager: Manager, tmp_path: Path, file: str, resize: int
) -> None:
    torch.save({"fc.weight": torch.zeros(1000, 2048)}, tmp_path / file)
    entry = manager.models.get(f"torchvision:resnet50@{tmp_path / file}")
    assert entry.preprocessing.startswith(f"resize {resize} bilinear, center crop 224, ")


def test_size_other_than_224(manager: Manager) -> None:
    entry = manager.models.get("torchvision:inception_v3")
    assert entry.preprocessing.startswith("resize 342 bilinear, center crop 299, ")


def test_foreign_file(manager: Manager, tmp_path: Path) -> None:
    file = tmp_path / "x.pth"
    torch.save({"stem.weight": torch.zeros(3), "fc.weight": torch.zeros(1000, 2)}, file)
    with pytest.raises(ModelError) as error:
        manager.models.get(f"torchvision:resnet18@{file}").build()
    assert "torchvision's resnet18: 101 missing (conv1.weight, " in str(error.value)
    assert "1 unexpected (stem.weight)" in str(error.value)
    assert "1 unfit (fc.weight is float32 (1000, 2) not float32 (1000, 512))" in str(error.value)
