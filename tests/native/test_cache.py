"""Files that are built once: whole, or not there."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from qbench_suite.native.cache import build_once, cache_folder, cache_folders, kept


def test_the_folder_is_chosen_or_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QBENCH_CACHE", str(tmp_path / "chosen"))
    assert cache_folder("kernels") == tmp_path / "chosen" / "kernels"
    monkeypatch.delenv("QBENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("native") == tmp_path / "qbench_suite" / "native"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder("native") == tmp_path / "home" / ".cache" / "qbench_suite" / "native"


def test_a_temporary_folder_comes_last_and_stays_the_same() -> None:
    first, second = (list(cache_folders("a test")) for _ in range(2))
    assert first == second
    assert first[0] == cache_folder("a test")
    assert first[1].is_dir()


def test_what_is_noted_comes_back(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.bin"
    assert kept(target) is None

    def build(part: Path) -> dict[str, str]:
        part.write_bytes(b"content")
        return {"name": "é\n"}

    facts = build_once(target, build)
    assert facts["name"] == "é\n"
    assert kept(target) == facts
    assert build_once(target, lambda part: pytest.fail("it is there")) == facts


def test_what_fails_to_build_leaves_nothing_behind(tmp_path: Path) -> None:
    def build(part: Path) -> dict[str, str]:
        part.write_bytes(b"half")
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        build_once(tmp_path / "file.bin", build)
    assert [path.name for path in tmp_path.iterdir()] in ([], ["file.bin.lock"])


def test_a_builder_that_dies_between_notes_and_file_leaves_no_file_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "file.bin"

    def build(part: Path) -> dict[str, str]:
        part.write_bytes(b"new")
        return {"name": "new"}

    build_once(target, lambda part: {"name": str(part.write_bytes(b"old"))})
    target.write_bytes(b"ol")

    def die(part: Path, onto: Path) -> None:
        raise OSError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", die)
        with pytest.raises(OSError, match="killed"):
            build_once(target, build)
    assert kept(target) is None
    assert build_once(target, build)["name"] == "new"
    assert target.read_bytes() == b"new"


def test_threads_that_want_one_file_build_it_once(tmp_path: Path) -> None:
    built: list[Path] = []
    start = threading.Barrier(4)

    def build(part: Path) -> dict[str, str]:
        built.append(part)
        part.write_bytes(b"content")
        return {}

    def want() -> None:
        start.wait()
        build_once(tmp_path / "file.bin", build)

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
