"""Image files: what every kind of file becomes, and which are broken."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets.folder import pil_loader

from qbench_suite import BrokenImageError
from qbench_vision.images import open_image, read_image

NOISE = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def saved(path: Path, mode: str, **options: Any) -> Path:
    image = Image.fromarray(NOISE)
    image.convert(mode).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        ("rgb.jpg", "RGB", {}),
        ("cmyk.jpg", "CMYK", {}),
        ("gray.jpg", "L", {}),
        ("bits.png", "1", {}),
        ("palette.png", "P", {}),
        ("clear.png", "RGBA", {}),
        ("one_clear.gif", "P", {"transparency": 3}),
        ("clear_bytes.png", "P", {"transparency": bytes(range(256))}),
        ("gray_clear.png", "LA", {}),
        ("ycc.tif", "YCbCr", {}),
    ],
)
def test_colours_are_those_of_torchvision(
    tmp_path: Path, name: str, mode: str, options: dict[str, Any]
) -> None:
    path = saved(tmp_path / name, mode, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = open_image(path)
        tensor = read_image(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = np.asarray(pil_loader(str(path)))
    assert found.mode == "RGB"
    assert np.array_equal(np.asarray(found), expected)
    square = expected[:, 1:7].transpose(2, 0, 1).astype(np.float32) / 255
    assert torch.equal(tensor, torch.from_numpy(square))


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    deep = np.full((5, 5), 32768, dtype=np.uint16)
    deep[0, 0] = 65535
    Image.fromarray(deep).save(tmp_path / "deep.png")
    expected = torch.full((3, 5, 5), 32768 / 65535)
    expected[:, 0, 0] = 1
    torch.testing.assert_close(read_image(tmp_path / "deep.png"), expected, rtol=0, atol=1e-7)
    image = open_image(tmp_path / "deep.png")
    assert image.getpixel((0, 0)) == (255, 255, 255)
    assert image.getpixel((1, 1)) == (128, 128, 128)


def test_exif_rotation_is_left(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    path = saved(tmp_path / "turned.jpg", "RGB", exif=exif)
    assert open_image(path).size == (9, 6)


def test_the_middle_of_the_image_is_kept(tmp_path: Path) -> None:
    pixels = np.zeros((2, 6, 3), dtype=np.uint8)
    pixels[:, 2:4] = 255
    Image.fromarray(pixels).save(tmp_path / "x.png")
    tensor = read_image(tmp_path / "x.png")
    assert torch.equal(tensor, torch.ones(3, 2, 2))
    assert tensor.is_contiguous()


def png_header(width: int, height: int) -> bytes:
    """A PNG file without pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    facts = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", facts) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def broken(kind: str, whole: bytes) -> bytes:
    return {
        "empty": b"",
        "text": b"<html>not found</html>",
        "cut": whole[: len(whole) * 2 // 3],
        "head": whole[:20],
        "no width": png_header(0, 5),
        "no pixels": png_header(5, 5),
        "absurd": png_header(100_000, 100_000),
    }[kind]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize(
    "kind", ["empty", "text", "cut", "head", "no width", "no pixels", "absurd"]
)
@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.gif", "x.bmp", "x.webp", "x.tif"])
def test_broken_files_are_named(tmp_path: Path, name: str, kind: str) -> None:
    large = Image.fromarray(np.tile(NOISE, (20, 20, 1)))
    large.save(tmp_path / name)
    (tmp_path / name).write_bytes(broken(kind, (tmp_path / name).read_bytes()))
    for read in (open_image, read_image):
        with pytest.raises(BrokenImageError) as error:
            read(tmp_path / name)
        assert str(error.value).startswith(
            f"An image file decodes whole; {tmp_path / name} does not ("
        )
        assert str(error.value).endswith("Replace it, or delete it.")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    for name in ("absent.jpg", "folder.jpg"):
        with pytest.raises(BrokenImageError, match=name):
            open_image(tmp_path / name)


def test_lack_of_memory_is_no_broken_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> None:
        raise MemoryError

    path = saved(tmp_path / "x.png", "RGB")
    monkeypatch.setattr(Image.Image, "convert", exhausted)
    with pytest.raises(MemoryError):
        open_image(path)
