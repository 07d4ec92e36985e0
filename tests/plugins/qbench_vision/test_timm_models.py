"""Models of timm: random, published, from a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from qbench_suite import ModelError
from qbench_suite.manager import Manager
from qbench_vision.seeding import open_branches

REAL = Path(__file__).parents[4] / "shared" / "data"


def logits(module: nn.Module, *size: int) -> torch.Tensor:
    """Output for one fixed input of ``size``."""
    with torch.inference_mode():
        result = module(torch.randn(1, *size, generator=torch.Generator().manual_seed(1)))
    assert isinstance(result, torch.Tensor)
    return result


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("resnet18", (3, 64, 64)),
        ("vit_tiny_patch16_224", (3, 224, 224)),
        ("test_efficientnet.r160_in1k", (3, 160, 160)),
    ],
)
def test_random_weights(manager: Manager, model: str, size: tuple[int, ...]) -> None:
    entry = manager.models.get(f"timm:{model}")
    config = timm.get_pretrained_cfg(model)
    assert config is not None
    assert (entry.name, entry.dataset, entry.default) == (f"timm:{model}", "random", False)
    assert (entry.mean, entry.std, entry.input_size) == (config.mean, config.std, config.input_size)
    assert entry.num_classes == 1000
    module = entry.build()
    assert not module.training
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert logits(module, *size).shape == (1, 1000)


def test_random_weights_are_the_same_every_time(manager: Manager) -> None:
    build = manager.models.get("timm:test_vit").build
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = build().state_dict()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(4)
    second = build().state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_random_weights_leave_no_branch_switched_off(manager: Manager) -> None:
    module = manager.models.get("timm:resnet18").build()
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(norm.weight.any() for norm in norms)
    kept = nn.BatchNorm2d(2)
    nn.init.constant_(kept.weight, 0.5)
    open_branches(kept)
    assert kept.weight.tolist() == [0.5, 0.5]


def test_headless_model(manager: Manager) -> None:
    assert manager.models.get("timm:vit_small_patch16_224.dino").num_classes == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "timm:resnt18",
            r"one of the \d+ of timm.list_models\(\); got 'resnt18'. Did you mean resnet18",
        ),
        ("timm:resnet18.a1", r"resnet18 has none called 'a1'. Did you mean resnet18.a3_in1k or"),
        ("timm:qqqqq", r"got 'qqqqq'. Known: .*…"),
        ("timm:botnet50ts_256+pretrained", r"has none. Pass timm:botnet50ts_256 for random ones"),
    ],
)
def test_unknown_names_are_refused_before_building(
    manager: Manager, name: str, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        manager.models.get(name)


def offline(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Cut the hub off, and have its cache in ``cache``."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))


def test_published_weights_without_network(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    offline(monkeypatch, tmp_path)
    entry = manager.models.get("timm:test_vit.r160_in1k+pretrained")
    with pytest.raises(
        ModelError, match=r"in neither .* HF_HUB_CACHE .* timm:test_vit.r160_in1k@<file>"
    ):
        entry.build()


def test_published_weights_from_the_cache(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    offline(monkeypatch, tmp_path)
    weights = timm.create_model("test_vit").state_dict()
    repository = tmp_path / "models--timm--test_vit.r160_in1k"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    save_file(weights, snapshot / "model.safetensors")
    module = manager.models.get("timm:test_vit+pretrained").build()
    assert torch.equal(module.state_dict()["head.weight"], weights["head.weight"])


def test_file_tells_classes_and_channels(manager: Manager, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    saved = timm.create_model("test_resnet", num_classes=7, in_chans=1).eval()
    save_file(saved.state_dict(), file)
    entry = manager.models.get(f"timm:test_resnet@{file}")
    assert (entry.num_classes, entry.input_size) == (7, (1, 160, 160))
    assert (entry.mean, entry.std) == ((0.5,), (0.5,))
    assert torch.equal(logits(entry.build(), 1, 32, 32), logits(saved, 1, 32, 32))


@pytest.mark.parametrize("model", ["test_convnext", "test_vit3", "test_mambaout", "test_nfnet"])
def test_every_kind_of_head_is_found(manager: Manager, tmp_path: Path, model: str) -> None:
    file = tmp_path / f"{model}.pth"
    torch.save(timm.create_model(model, num_classes=3).state_dict(), file)
    entry = manager.models.get(str(file))
    assert entry.num_classes == 3
    assert logits(entry.build(), *entry.input_size).shape == (1, 3)


@pytest.mark.parametrize(
    "stem", ["test_vit", "test_vit.r160_in1k", "test_vit.best", "test_vit.3.ema"]
)
def test_file_named_after_its_architecture(manager: Manager, tmp_path: Path, stem: str) -> None:
    file = tmp_path / f"{stem}.pt"
    torch.save(timm.create_model("test_vit").state_dict(), file)
    entry = manager.models.get(str(file))
    assert entry.name == str(file)
    assert logits(entry.build(), 3, 160, 160).shape == (1, 1000)


def test_file_in_the_working_folder(
    manager: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(timm.create_model("test_vit").state_dict(), "test_vit.pth")
    for name in ("test_vit.pth", "./test_vit.pth", "timm:test_vit@test_vit.pth"):
        assert manager.models.get(name).build() is not None


def test_file_named_after_nothing_known(manager: Manager, tmp_path: Path) -> None:
    (tmp_path / "best.pth").write_bytes(b"")
    with pytest.raises(
        ModelError, match=rf"'best.pth' is not. Pass timm:<model>@{tmp_path}/best.pth or torch"
    ):
        manager.models.get(str(tmp_path / "best.pth"))


@pytest.mark.parametrize(
    "name",
    [
        "/x/best.pth",
        "/x/resnet18.pth",
        "timm:resnet18@/x/best.pth",
        "timm:resnt18@/x/best.pth",
        "torchvision:resnet18@/x/best.pth",
        "torchvision:resnt18@/x/best.pth",
        "cifar:resnet20@/x/best.pth",
        "cifar:resnet21@/x/best.pth",
    ],
)
def test_missing_file_is_what_is_told(manager: Manager, name: str) -> None:
    with pytest.raises(ModelError, match=r"'/x/\w+.pth' does not exist. Check the path") as error:
        manager.models.get(name)
    assert "Did you mean" not in str(error.value)


def test_checkpoint_is_preprocessed_like_its_architecture(manager: Manager, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_file(timm.create_model("test_vit").state_dict(), file)
    entry = manager.models.get(f"timm:test_vit@{file}")
    assert entry.preprocessing == manager.models.get("timm:test_vit").preprocessing
    assert entry.preprocessing == (
        "resize 168 bicubic, center crop 160, mean 0.5/0.5/0.5, std 0.5/0.5/0.5"
    )
    assert entry.transform
    image = Image.effect_noise((300, 200), 80).convert("RGB")
    assert entry.transform()(image).shape == entry.input_size


def test_gray_checkpoint_gets_gray_images(manager: Manager, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    save_file(timm.create_model("test_resnet", in_chans=1).state_dict(), file)
    entry = manager.models.get(f"timm:test_resnet@{file}")
    assert entry.preprocessing.startswith("gray, resize ")
    assert entry.preprocessing.endswith("mean 0.5, std 0.5")
    assert entry.transform
    found = entry.transform()(Image.new("RGB", (200, 200), (51, 51, 51)))
    torch.testing.assert_close(found, torch.full((1, 160, 160), (0.2 - 0.5) / 0.5))


def test_no_image_has_five_channels(manager: Manager, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    save_file(timm.create_model("test_resnet", in_chans=5).state_dict(), file)
    entry = manager.models.get(f"timm:test_resnet@{file}")
    assert (entry.transform, entry.preprocessing, entry.input_size[0]) == (None, "", 5)


def test_foreign_file(manager: Manager, tmp_path: Path) -> None:
    file = tmp_path / "test_vit.pth"
    torch.save(timm.create_model("test_resnet").state_dict(), file)
    with pytest.raises(
        ModelError, match=r"timm's test_vit: 80 missing \(cls_token, .*unexpected \("
    ):
        manager.models.get(str(file)).build()


def test_real_weights(manager: Manager) -> None:
    file = REAL / "deit_tiny_patch16_224.safetensors"
    if not file.is_file():
        pytest.skip(f"the trained weights are not at {file}")
    entry = manager.models.get(str(file))
    assert entry.mean == pytest.approx((0.485, 0.456, 0.406))
    output = logits(entry.build(), 3, 224, 224)
    assert torch.isfinite(output).all()
    assert output.std() > 0.1
