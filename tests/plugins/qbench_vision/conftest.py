"""A manager that holds this plugin alone, and a server of archives that can misbehave."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

import qbench_vision
from qbench_suite.manager import Manager
from qbench_vision.fetch import Archive


@pytest.fixture(scope="session")
def manager() -> Manager:
    manager = Manager()
    manager.register(qbench_vision)
    assert not manager.problems
    return manager


@dataclass
class Server:
    """Files over HTTP; what goes wrong is set by the test."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    #: Whether ranges are answered.
    ranges: bool = True
    #: Bytes after which the connection is closed, for the requests to come; 0 for none.
    breaks: list[int] = field(default_factory=list)
    #: Statuses to answer with, for the requests to come.
    statuses: list[int] = field(default_factory=list)
    #: Added to the first byte that a partial response claims to start at.
    shift: int = 0
    #: Ranges that were asked for, None for the whole.
    asked: list[str | None] = field(default_factory=list)

    def offer(self, name: str, content: bytes) -> Archive:
        """Serve ``content`` as ``name``."""
        self.files[f"/{name}"] = content
        return Archive(f"{self.address}/{name}", hashlib.md5(content).hexdigest())


def handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            server.asked.append(asked)
            status = server.statuses.pop(0) if server.statuses else 200
            content = server.files.get(self.path)
            if content is None or status != 200:
                self.send_error(404 if content is None else status)
                return
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
            if not server.ranges:
                start = 0
            if start >= len(content) and start:
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            if start:
                claimed = start + server.shift
                self.send_header(
                    "Content-Range", f"bytes {claimed}-{len(content) - 1}/{len(content)}"
                )
            self.end_headers()
            cut = server.breaks.pop(0) if server.breaks else 0
            self.wfile.write(content[start : start + cut] if cut else content[start:])

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    return Handler


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server on this machine; attempts follow each other without pause."""
    monkeypatch.setattr("qbench_vision.fetch.PAUSE_S", 0)
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    served = Server()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(served)) as http:
        served.address = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        http.shutdown()
        thread.join()


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of datasets."""
    monkeypatch.setenv("QBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("QBENCH_IMAGENET", raising=False)
    return tmp_path / "data"


def jpeg(value: int = 128, size: tuple[int, int] = (6, 4)) -> bytes:
    """A photograph of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, 0, 0)).save(buffer, "JPEG", quality=100)
    return buffer.getvalue()


@pytest.fixture(name="jpeg")
def jpeg_fixture() -> object:
    """``jpeg(value, size)`` gives the bytes of a photograph of one colour."""
    return jpeg
