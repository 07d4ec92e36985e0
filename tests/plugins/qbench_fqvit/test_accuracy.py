"""What integers cost: synthetic blocks in dB, trained models in points."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from qbench_fqvit import QuantTimmVitBlock, Scheme, convert
from qbench_suite.manager import default_manager

REAL = Path(__file__).parents[4] / "shared" / "data"
#: Least quality of what a block adds to the stream, in dB: without and with outlier channels.
GATES = {"log8": (27.5, 25.5), "lis4": (24.0, 24.0)}


@cache
def synthetic(outliers: bool) -> tuple[nn.Module, Tensor, Tensor]:
    """A block of a new ViT-Base, and activations of half a unit to calibrate and to measure on.

    6 channels are 30 times as large, or none.
    """
    torch.manual_seed(0)
    model: Any = timm.create_model("vit_base_patch16_224", depth=1)
    generator = torch.Generator().manual_seed(0)
    seen, unseen = (0.5 * torch.randn(8, 197, 768, generator=generator) for _ in range(2))
    if outliers:
        large = torch.randperm(768, generator=generator)[:6]
        for x in (seen, unseen):
            x[..., large] *= 30
    return model.blocks[0].eval(), seen, unseen


@cache
def branch_db(zoo: Any, outliers: bool, scheme: Scheme) -> float:
    """SQNR of output minus input on unseen activations, of the integer block against the float one.

    Each subtracts its own input: the integer block its codes' values.
    """
    block, seen, x = synthetic(outliers)
    integer = QuantTimmVitBlock.from_float(block, [seen[:4], seen[4:]], scheme)
    codes = integer.quantize_input(x)
    found = integer.dequantize_output(integer(codes)) - integer.scales.value("input", codes)
    return float(zoo.sqnr_db(block(x) - x, found))


@pytest.mark.parametrize("softmax", GATES)
@pytest.mark.parametrize("outliers", [False, True], ids=["plain", "outliers"])
def test_a_synthetic_block_keeps_its_branches(zoo: Any, softmax: str, outliers: bool) -> None:
    assert branch_db(zoo, outliers, Scheme(softmax=softmax)) >= GATES[softmax][outliers]


def test_each_step_of_the_scheme_helps_where_it_should(zoo: Any) -> None:
    ladder = (
        Scheme(ptf=0, folding=False, softmax="uniform8"),
        Scheme(folding=False, softmax="lis4"),
        Scheme(folding=False),
        Scheme(),
        Scheme(residual_bits=16),
    )
    found = [branch_db(zoo, True, scheme) for scheme in ladder]
    assert found == sorted(found)
    assert found[1] > found[0] + 10
    assert found[3] > found[2] + 3
    assert found[4] >= 30


@pytest.mark.parametrize("name", ["fqvit.log8", "fqvit.lis4"])
def test_the_zoo_vit_keeps_its_accuracy(name: str) -> None:
    manager = default_manager()
    entry = manager.models.get("vit")
    model, data = entry.build().eval(), manager.datasets.get("digits")
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (entry.mean, entry.std))

    def images(split: str) -> tuple[Tensor, Tensor]:
        pairs: Any = data.load(split)
        x = torch.stack([pairs[i][0] for i in range(len(pairs))])
        return (x - mean) / std, torch.tensor([pairs[i][1] for i in range(len(pairs))])

    calibration, _ = images("train")
    x, labels = images("test")
    integer = manager.integer_methods.get(name).convert(model, list(calibration[:128].split(32)))
    assert len(integer.blocks) == 4
    exact = (model(x).argmax(1) == labels).float().mean()
    found = (integer.module(x).argmax(1) == labels).float().mean()
    assert float(exact) > 0.95
    assert 100 * float(exact - found) <= 1.0


def real_images() -> tuple[Tensor, Tensor]:
    """Photographs as DeiT takes them, and their labels."""
    from PIL import Image
    from torchvision import transforms

    folder = REAL / "imagenet_val1300"
    if not folder.exists():
        pytest.skip(f"the real data is not at {folder}")
    transform = transforms.Compose(
        [
            transforms.Resize((248, 248), interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    rows = [row.split(",") for row in (folder / "labels.csv").read_text().splitlines()[1:]]
    files = {path.name: path for path in folder.rglob("*.*")}
    images = [transform(Image.open(files[name]).convert("RGB")).half() for name, *_ in rows]
    return torch.stack(images), torch.tensor([int(row[1]) for row in rows])


@pytest.mark.slow
def test_deit_tiny_keeps_its_accuracy_on_photographs() -> None:
    """Calibrated on 64 photographs that the accuracy leaves out."""
    from safetensors.torch import load_file

    images, labels = real_images()
    model = timm.create_model("deit_tiny_patch16_224").eval()
    model.load_state_dict(load_file(REAL / "deit_tiny_patch16_224.safetensors"))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    calibration, rest = order[:64], order[64:]

    def top1(module: nn.Module) -> float:
        best = torch.cat([module(images[part].float()).argmax(1) for part in rest.split(50)])
        return 100 * float((best == labels[rest]).float().mean())

    exact = top1(model)
    assert exact > 80
    for softmax, allowed in (("log8", 1.0), ("lis4", 1.5)):
        start = time.process_time()
        batches = [images[part].float() for part in calibration.split(16)]
        integer = convert(model, batches, Scheme(softmax=softmax))
        print(f"{softmax}: calibration {time.process_time() - start:.1f} s")
        assert len(integer.blocks) == 12
        found = top1(integer.module)
        print(f"top-1 {found:.2f}, float {exact:.2f}")
        assert exact - found <= allowed
