"""Float logits: found again by content, kept whole on disk, computed again where they are not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor

from qbench_suite.engine.fp32 import FloatLogits


class Counted:
    """Logits that tell the images they are of; calls are counted."""

    def __init__(self) -> None:
        self.images = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.images += len(images)
        return images.flatten(1)[:, :4] * 2


def inputs(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


def test_known_images_are_not_run_again_in_any_batch(tmp_path: Path) -> None:
    floats, run, x = FloatLogits("m", "f", tmp_path), Counted(), inputs(6)
    first = floats.logits(x, run)
    assert torch.equal(floats.logits(x[2:4].flip(0), run), first[2:4].flip(0))
    assert run.images == 6
    floats.logits(x + 1, run)
    assert run.images == 12, "another input is no known image"


def test_a_later_process_finds_them(tmp_path: Path) -> None:
    run, x = Counted(), inputs(6)
    floats = FloatLogits("timm:m@/a/b.pth", "f", tmp_path)
    expected = floats.logits(x, run)
    floats.save()
    again = FloatLogits("timm:m@/a/b.pth", "f", tmp_path)
    assert torch.equal(again.logits(x[:2], run), expected[:2])
    assert torch.equal(again.logits(x, run), expected)
    assert run.images == 6 + 2, "the first ones only are computed again, as a check"
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]
    for other in (FloatLogits("timm:m@/a/b.pth", "g", tmp_path), FloatLogits("n", "f", tmp_path)):
        assert other.get(x) is None


def test_without_a_folder_they_are_kept_in_memory_only() -> None:
    floats, run, x = FloatLogits("m", "f", None), Counted(), inputs(2)
    floats.logits(x, run)
    floats.save()
    floats.logits(x, run)
    assert run.images == 2


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "other tensors"])
def test_a_damaged_file_is_computed_again_with_a_warning(tmp_path: Path, damage: str) -> None:
    from safetensors.torch import save_file

    run, x = Counted(), inputs(3)
    floats = FloatLogits("m", "f", tmp_path)
    expected = floats.logits(x, run)
    floats.save()
    (file,) = tmp_path.iterdir()
    if damage == "other tensors":
        save_file(
            {"digests": torch.zeros(2, 16, dtype=torch.uint8), "logits": torch.zeros(3, 4)}, file
        )
    else:
        whole = file.read_bytes()
        file.write_bytes({"cut": whole[:-20], "noise": b"\xff" * 300, "empty": b""}[damage])
    with pytest.warns(RuntimeWarning, match="computed again"):
        again = FloatLogits("m", "f", tmp_path)
    assert torch.equal(again.logits(x, run), expected)
    again.save()
    assert FloatLogits("m", "f", tmp_path).get(x) is not None


@pytest.mark.parametrize("shift", [1.0, 1.001, float("nan")])
@pytest.mark.parametrize("ask", [FloatLogits.logits, lambda floats, x, run: floats.put(x, run(x))])
def test_stale_logits_are_dropped_with_a_warning(
    tmp_path: Path, shift: float, ask: Callable[[FloatLogits, Tensor, Counted], object]
) -> None:
    x, run = inputs(6), Counted()
    floats = FloatLogits("m", "f", tmp_path)
    floats.put(x, -run(x) * shift)
    floats.save()
    again = FloatLogits("m", "f", tmp_path)
    with pytest.warns(RuntimeWarning, match="not those that the model gives now"):
        ask(again, x[:2], run)
    assert torch.equal(again.logits(x[:2], run), run(x[:2]))
    assert again.get(x[2:]) is None
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(again.logits(x, run), run(x))
    again.save()
    held = FloatLogits("m", "f", tmp_path).get(x)
    assert held is not None
    assert torch.equal(held, run(x))


def test_another_order_of_summation_is_not_stale(tmp_path: Path) -> None:
    x, run = inputs(6), Counted()
    floats = FloatLogits("m", "f", tmp_path)
    logits = run(x) * (1 + 1e-6)
    logits[0, :2] = torch.tensor([float("nan"), float("inf")])
    floats.put(x, logits)
    floats.save()
    again, computed = FloatLogits("m", "f", tmp_path), run(x)
    computed[0, :2] = torch.tensor([float("nan"), float("inf")])
    again.put(x[:2], computed[:2])
    assert again.get(x) is not None


@pytest.mark.parametrize("folder", ["file/cache", "/proc/nope", "locked/cache"])
def test_a_folder_that_cannot_be_used_is_told_once(
    tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")

    def denied(*_: object, **__: object) -> bool:
        raise PermissionError(13, "Permission denied")

    if folder.startswith("locked"):  # what a folder of another user does; root may read it
        monkeypatch.setattr(Path, "is_file", denied)
        monkeypatch.setattr(Path, "mkdir", denied)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        floats, run, x = FloatLogits("m", "f", tmp_path / folder), Counted(), inputs(2)
        floats.logits(x[:1], run)
        floats.save()
        floats.logits(x, run)
        floats.save()
    told = [str(warning.message) for warning in caught]
    assert sum("--qbench-fp32-cache none" in message for message in told) == 1
    assert floats.get(x) is not None


def test_a_full_disk_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("qbench_suite.engine.fp32.save_file", full)
    floats, x = FloatLogits("m", "f", tmp_path), inputs(1)
    floats.logits(x, Counted())
    with pytest.warns(RuntimeWarning, match="No space left"):
        floats.save()
    assert list(tmp_path.iterdir()) == []


def test_nonfinite_logits_are_kept_as_they_are(tmp_path: Path) -> None:
    floats, x = FloatLogits("m", "f", tmp_path), inputs(1)
    floats.put(x, torch.tensor([[float("nan"), float("inf")]]))
    floats.save()
    found = FloatLogits("m", "f", tmp_path).get(x)
    assert found is not None
    assert found.isnan().tolist() == [[True, False]]
