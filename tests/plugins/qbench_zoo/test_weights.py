"""Weights that cannot be used are errors that say which file, why, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from qbench_suite import ModelError
from qbench_zoo.architectures import architecture
from qbench_zoo.card import card_path, read_card
from qbench_zoo.weights import load_model, save_weights, weights_path

REMEDY = "make them anew with `qbench zoo train resnet`"


def message(folder: Path) -> str:
    """Return the text of the error that loading ``resnet`` from ``folder`` raises."""
    with pytest.raises(ModelError) as error:
        load_model("resnet", folder)
    return str(error.value)


def write_resnet(folder: Path, content: bytes) -> Path:
    """Put ``content`` where the weights of ``resnet`` are looked for."""
    path = weights_path("resnet", folder)
    path.parent.mkdir()
    path.write_bytes(content)
    return path


def test_missing(tmp_path: Path) -> None:
    path = weights_path("resnet", tmp_path)
    assert message(tmp_path) == (
        f"the weights of resnet must lie beside the plugin; at {path}: there is no such file; "
        + REMEDY
    )


@pytest.mark.parametrize("keep", [0, 7, 1000, -1])
def test_truncated(tmp_path: Path, keep: int) -> None:
    path = write_resnet(tmp_path, weights_path("resnet").read_bytes()[:keep])
    start = f"the weights of resnet must be a readable safetensors file; at {path}: "
    assert message(tmp_path).startswith(start)
    assert message(tmp_path).endswith(REMEDY)


def test_of_another_model(tmp_path: Path) -> None:
    path = write_resnet(tmp_path, weights_path("vit").read_bytes())
    assert message(tmp_path) == (
        f"the weights of resnet must hold the tensors of test_resnet; at {path}: "
        f"blocks.0.attn.proj.bias is unknown to the architecture; {REMEDY}"
    )


def drop_bias(tensors: dict[str, Tensor]) -> None:
    """Leave one tensor out."""
    del tensors["fc.bias"]


def narrow(tensors: dict[str, Tensor]) -> None:
    """Store one tensor in half precision."""
    tensors["fc.bias"] = tensors["fc.bias"].half()


def widen(tensors: dict[str, Tensor]) -> None:
    """Give the head an eleventh class."""
    tensors["fc.bias"] = torch.zeros(11)


@pytest.mark.parametrize(
    ("damage", "received"),
    [
        (drop_bias, "fc.bias is missing"),
        (narrow, "fc.bias is float16 (10,) where float32 (10,) fits"),
        (widen, "fc.bias is float32 (11,) where float32 (10,) fits"),
    ],
    ids=["missing-tensor", "half-precision", "another-shape"],
)
def test_of_another_architecture(
    tmp_path: Path, damage: Callable[[dict[str, Tensor]], None], received: str
) -> None:
    tensors = load_file(weights_path("resnet"))
    damage(tensors)
    path = write_resnet(tmp_path, b"")
    save_file(tensors, path)
    assert message(tmp_path) == (
        f"the weights of resnet must hold the tensors of test_resnet; at {path}: "
        f"{received}; {REMEDY}"
    )


def test_saved_weights_come_back_bit_for_bit_and_leave_nothing_else(tmp_path: Path) -> None:
    model = architecture("resnet").build()
    path = save_weights(model, "resnet", tmp_path)
    assert [each.name for each in path.parent.iterdir()] == ["resnet.safetensors"]
    loaded = load_model("resnet", tmp_path).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in model.state_dict().items())


def test_a_failed_write_keeps_the_old_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_weights(architecture("resnet").build(), "resnet", tmp_path)
    old = path.read_bytes()

    def disk_full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", disk_full)
    with pytest.raises(OSError, match="No space left"):
        save_weights(architecture("resnet").build(), "resnet", tmp_path)
    assert path.read_bytes() == old
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("content", [None, b"{", b"{}", b'{"colour": "red"}', b"[]"])
def test_an_unusable_card_is_an_error_with_a_remedy(tmp_path: Path, content: bytes | None) -> None:
    path = card_path("vit", tmp_path)
    if content is not None:
        path.parent.mkdir()
        path.write_bytes(content)
    with pytest.raises(ModelError) as error:
        read_card("vit", tmp_path)
    text = str(error.value)
    assert text.startswith(f"the card of vit must state every fact about its weights; at {path}: ")
    assert text.endswith("make it anew with `qbench zoo train vit`")
