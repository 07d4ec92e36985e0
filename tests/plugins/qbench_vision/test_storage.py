"""The folder of datasets, locks, and archives that are unpacked whole or not at all."""

from __future__ import annotations

import errno
import shutil
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest
from filelock import FileLock

from qbench_suite import DatasetError
from qbench_vision.storage import data_folder, preparing, unpack


def archive(folder: Path, kind: str) -> Path:
    source = folder / "source"
    (source / "set" / "deep").mkdir(parents=True)
    (source / "set" / "deep" / "x.txt").write_text("1")
    return Path(shutil.make_archive(str(folder / "set"), kind, source))


def test_folder_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("", None):
        monkeypatch.delenv("QBENCH_DATA", raising=False)
        if value is not None:
            monkeypatch.setenv("QBENCH_DATA", value)
        assert data_folder() == Path.home() / ".cache" / "qbench" / "data"
    monkeypatch.setenv("QBENCH_DATA", "~/x")
    assert data_folder() == Path.home() / "x"


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar"])
def test_archives_become_folders(tmp_path: Path, kind: str) -> None:
    assert unpack(archive(tmp_path, kind), "set") == tmp_path / "set"
    assert (tmp_path / "set" / "deep" / "x.txt").read_text() == "1"
    assert not (tmp_path / ".set.unpacking").exists()


def test_killed_unpacking_is_repeated(tmp_path: Path) -> None:
    path = archive(tmp_path, "zip")

    def killed(_folder: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack(path, "set", killed)
    assert not (tmp_path / "set").exists()
    (tmp_path / ".set.unpacking" / "set" / "rest").write_text("of the first attempt")
    seen: list[Path] = []
    unpack(path, "set", seen.append)
    assert seen == [tmp_path / ".set.unpacking" / "set"]
    assert [p.name for p in (tmp_path / "set").iterdir()] == ["deep"]


@pytest.mark.parametrize("name", ["x.zip", "x.tgz"])
def test_damaged_archive(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no archive")
    with pytest.raises(DatasetError, match=rf"unpacks whole; .*{name} does not .* fetch it again"):
        unpack(tmp_path / name, "set")
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("name", ["evil.zip", "evil.tar"])
def test_nothing_is_written_outside(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "x").write_text("evil")
    if name.endswith("zip"):
        with zipfile.ZipFile(tmp_path / "in" / name, "w") as made:
            made.write(tmp_path / "x", "../../escaped")
            made.write(tmp_path / "x", "set/x")
    else:
        with tarfile.open(tmp_path / "in" / name, "w") as made:
            made.add(tmp_path / "x", "../../escaped")
            made.add(tmp_path / "x", "set/x")
    if name.endswith("tar"):
        with pytest.raises(DatasetError, match="escaped"):
            unpack(tmp_path / "in" / name, "set")
    else:
        unpack(tmp_path / "in" / name, "set")
    assert not (tmp_path / "escaped").exists()
    assert not (tmp_path / "in" / "escaped").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk(tmp_path: Path, number: int) -> None:
    with (
        pytest.raises(DatasetError, match=r"is full .* larger disk, and run the same"),
        preparing("a", tmp_path),
    ):
        raise OSError(number, "full")


def test_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QBENCH_DATA", str(tmp_path / "file" / "data"))
    with pytest.raises(DatasetError, match=r"can be written; .*data cannot"), preparing("a"):
        pass


def test_one_prepares_at_a_time(tmp_path: Path) -> None:
    order: list[str] = []
    other = FileLock(tmp_path / ".a.lock")
    other.acquire()

    def prepare() -> None:
        with preparing("a", tmp_path):
            order.append("second")

    thread = threading.Thread(target=prepare)
    thread.start()
    thread.join(0.2)
    order.append("first")
    other.release()
    thread.join(20)
    assert order == ["first", "second"]


def test_lock_is_released_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), preparing("a", tmp_path):
        raise ZeroDivisionError
    with FileLock(tmp_path / ".a.lock", timeout=0):
        pass
