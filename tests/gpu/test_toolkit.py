"""Where NVIDIA's headers and tools are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from qbench_suite.gpu import toolkit


def made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("", encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture
def packages(tmp_path: Path, forgetful: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages; no toolkit, and nothing on the path."""
    monkeypatch.setattr(toolkit, "_packages", lambda name: [tmp_path / "packages" / name])
    monkeypatch.setattr(toolkit, "_TOOLKIT", tmp_path / "no toolkit")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / "packages"


@pytest.mark.parametrize("folder", ["cu13/include", "cuda_runtime/include"])
def test_headers_are_those_of_the_packages(packages: Path, folder: str) -> None:
    header = made(packages / "nvidia" / folder / "cuda_fp16.h")
    assert toolkit.headers() == header.parent


def test_the_newest_package_comes_before_a_toolkit(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(packages / "nvidia" / "cu12" / "include" / "cuda_fp16.h")
    newest = made(packages / "nvidia" / "cu13" / "include" / "cuda_fp16.h")
    made(tmp_path / "home" / "include" / "cuda_fp16.h")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    assert toolkit.headers() == newest.parent


@pytest.mark.parametrize("variable", ["CUDA_HOME", "CUDA_PATH"])
def test_headers_are_those_of_a_toolkit_otherwise(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    header = made(tmp_path / "home" / "include" / "cuda_fp16.h")
    monkeypatch.setenv(variable, str(tmp_path / "home"))
    assert toolkit.headers() == header.parent


def test_there_may_be_none(packages: Path) -> None:
    assert toolkit.headers() is None
    assert toolkit.tool("nvdisasm") is None


def test_tools_are_those_of_triton_unless_others_are_on_the_path(
    packages: Path, tmp_path: Path
) -> None:
    brought = made(packages / "triton" / "backends" / "nvidia" / "bin" / "nvdisasm")
    assert toolkit.tool("nvdisasm") == brought
    toolkit.tool.cache_clear()
    own = made(tmp_path / "empty" / "nvdisasm")
    assert toolkit.tool("nvdisasm") == own
