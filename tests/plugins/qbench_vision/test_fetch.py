"""Downloads from a server that breaks off, knows no ranges, lies or is not there."""

from __future__ import annotations

import hashlib
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from qbench_suite import DatasetError
from qbench_vision import fetch as module
from qbench_vision.fetch import ATTEMPTS, Archive, fetch

CONTENT = random.Random(0).randbytes(700_000)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_whole_file_in_one_request(server: Any, tmp_path: Path) -> None:
    archive = server.offer("a.tgz", CONTENT)
    assert fetch(archive, tmp_path) == tmp_path / "a.tgz"
    assert (tmp_path / "a.tgz").read_bytes() == CONTENT
    assert names(tmp_path) == ["a.tgz"]
    assert server.asked == [None]


def test_what_is_there_is_not_asked_for(server: Any, tmp_path: Path) -> None:
    archive = server.offer("a.tgz", CONTENT)
    (tmp_path / "a.tgz").write_bytes(CONTENT)
    fetch(archive, tmp_path)
    assert server.asked == []


def test_break_goes_on_by_range(server: Any, tmp_path: Path) -> None:
    archive = server.offer("a.tgz", CONTENT)
    server.breaks = [300_000, 100_000]
    fetch(archive, tmp_path)
    assert (tmp_path / "a.tgz").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-", "bytes=400000-"]


def test_later_call_goes_on(server: Any, tmp_path: Path) -> None:
    archive = server.offer("a.tgz", CONTENT)
    (tmp_path / "a.tgz.part").write_bytes(CONTENT[:123_456])
    fetch(archive, tmp_path)
    assert (tmp_path / "a.tgz").read_bytes() == CONTENT
    assert server.asked == ["bytes=123456-"]
    assert names(tmp_path) == ["a.tgz"]


def test_server_without_ranges_starts_anew(server: Any, tmp_path: Path) -> None:
    archive = server.offer("a.tgz", CONTENT)
    server.ranges = False
    server.breaks = [300_000]
    fetch(archive, tmp_path)
    assert (tmp_path / "a.tgz").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-"]


def test_server_without_ranges_that_always_breaks_is_given_up(server: Any, tmp_path: Path) -> None:
    archive = server.offer("a.tgz", CONTENT)
    server.ranges = False
    server.breaks = [300_000] * 20
    with pytest.raises(DatasetError, match="ended after 300,000 of 700,000 bytes"):
        fetch(archive, tmp_path)
    assert len(server.asked) == 1 + ATTEMPTS
    assert names(tmp_path) == ["a.tgz.part"]


def test_part_that_is_whole_already(server: Any, tmp_path: Path) -> None:
    archive = server.offer("a.tgz", CONTENT)
    (tmp_path / "a.tgz.part").write_bytes(CONTENT)
    fetch(archive, tmp_path)
    assert (tmp_path / "a.tgz").read_bytes() == CONTENT


def test_another_range_than_asked_for_is_not_added(server: Any, tmp_path: Path) -> None:
    archive = server.offer("a.tgz", CONTENT)
    (tmp_path / "a.tgz.part").write_bytes(CONTENT[:1000])
    server.shift = 7
    fetch(archive, tmp_path)
    assert (tmp_path / "a.tgz").read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-", None]


def test_passing_trouble_is_waited_out(server: Any, tmp_path: Path) -> None:
    archive = server.offer("a.tgz", CONTENT)
    server.statuses = [503, 429]
    fetch(archive, tmp_path)
    assert len(server.asked) == 3


def test_wrong_checksum_is_kept_aside(server: Any, tmp_path: Path) -> None:
    archive = server.offer("a.tgz", CONTENT)
    server.files["/a.tgz"] = b"<html>log in first</html>"
    found = hashlib.md5(b"<html>log in first</html>").hexdigest()
    with pytest.raises(DatasetError) as error:
        fetch(archive, tmp_path)
    for part in (archive.md5, found, archive.url, str(tmp_path / "a.tgz.wrong"), "By hand"):
        assert part in str(error.value)
    assert names(tmp_path) == ["a.tgz.wrong"]
    server.files["/a.tgz"] = CONTENT
    assert fetch(archive, tmp_path).read_bytes() == CONTENT


def test_wrong_file_in_its_place_is_kept_aside(server: Any, tmp_path: Path) -> None:
    archive = server.offer("a.tgz", CONTENT)
    (tmp_path / "a.tgz").write_bytes(CONTENT[:-1])
    assert fetch(archive, tmp_path).read_bytes() == CONTENT
    assert (tmp_path / "a.tgz.wrong").read_bytes() == CONTENT[:-1]


def test_missing_page(server: Any, tmp_path: Path) -> None:
    archive = Archive(f"{server.address}/gone.tgz", "0" * 32)
    with pytest.raises(DatasetError) as error:
        fetch(archive, tmp_path)
    assert f"{archive.url} answers HTTP Error 404" in str(error.value)
    assert f"download {archive.url} elsewhere and put it at {tmp_path / 'gone.tgz'}" in str(
        error.value
    )
    assert len(server.asked) == 1
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("url", "reason"),
    [("http://127.0.0.1:9/a.tgz", "refused"), ("http://no.such.host.invalid/a.tgz", "")],
)
def test_no_server(server: Any, tmp_path: Path, url: str, reason: str) -> None:
    (tmp_path / "a.tgz.part").write_bytes(b"12345")
    with pytest.raises(DatasetError, match=f"failed {ATTEMPTS} times in a row .*{reason}") as error:
        fetch(Archive(url, "0" * 32), tmp_path)
    assert "after the 5 bytes that are there" in str(error.value)
    assert "By hand" in str(error.value)
    assert (tmp_path / "a.tgz.part").read_bytes() == b"12345"


def test_too_little_room_is_told_before_anything_is_written(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = server.offer("a.tgz", CONTENT)
    usage = shutil.disk_usage(tmp_path)._replace(free=699_999)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: usage)
    with pytest.raises(DatasetError, match=r"700,000 bytes are missing .* room for 699,999"):
        fetch(archive, tmp_path)
    assert names(tmp_path) == []
    (tmp_path / "a.tgz.part").write_bytes(CONTENT[:1])
    assert fetch(archive, tmp_path).read_bytes() == CONTENT


def test_progress_goes_from_what_is_there_to_the_end(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = server.offer("a.tgz", CONTENT)
    shown: list[tuple[int, int | None]] = []
    module._receive(archive.url, tmp_path / "x", tmp_path / "x", lambda *at: shown.append(at))
    assert shown[0] == (0, 700_000)
    assert shown[-1] == (700_000, 700_000)
    shown.clear()
    (tmp_path / "y").write_bytes(CONTENT[:100])
    module._receive(archive.url, tmp_path / "y", tmp_path / "y", lambda *at: shown.append(at))
    assert shown[0] == (100, 700_000)
    assert shown[-1] == (700_000, 700_000)


def test_full_disk_while_writing_keeps_what_came(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    from qbench_vision.storage import preparing

    archive = server.offer("a.tgz", CONTENT)
    (tmp_path / "a.tgz.part").symlink_to("/dev/full")
    if not os.access("/dev/full", os.W_OK):
        pytest.skip("there is no /dev/full here")
    with (
        pytest.raises(DatasetError, match=rf"{tmp_path} is full .* QBENCH_DATA"),
        preparing("a", tmp_path),
    ):
        fetch(archive, tmp_path)
