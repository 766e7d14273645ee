"""A server on this machine whose mirrors drop, ignore Range or lie, and the registry entry that uses it."""

import dataclasses
import hashlib
import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from diffbir_jax.weights import REGISTRY, WeightFile, fetch


def archive(size: int, member: bytes = bytes(range(256))) -> bytes:
    """A zip archive of `size` bytes, as PyTorch's files are; other members make others of the same size."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("data.pkl", b"")
    content = (member * (size // len(member)))[: size - len(stream.getvalue())]
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("data.pkl", content)
    return stream.getvalue()


CONTENT = archive(1 << 20)
SHA = hashlib.sha256(CONTENT).hexdigest()
NAME = "some.pth"


@dataclasses.dataclass
class Mirror:
    """How one path of the server behaves, and what it was asked."""

    content: bytes = CONTENT
    ranges: bool = True
    etag: str = '"1"'
    drop_after: list[int] = dataclasses.field(default_factory=list)  # bytes of the body, one per request
    kind: str = "application/octet-stream"
    asked: list[str] = dataclasses.field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    mirrors: dict[str, Mirror]

    def do_GET(self) -> None:
        mirror = self.mirrors.get(self.path)
        if mirror is None:
            return self.send_error(404)
        asked = self.headers.get("Range", "")
        mirror.asked.append(asked)
        unchanged = self.headers.get("If-Range", mirror.etag) == mirror.etag
        start = int(asked[6:-1]) if asked and mirror.ranges and unchanged else 0
        body, size = mirror.content[start:], len(mirror.content)
        if start >= size:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", mirror.kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", mirror.etag)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.end_headers()
        self.wfile.write(body[: mirror.drop_after.pop(0)] if mirror.drop_after else body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server:
    """A local server with named mirrors; `file` makes a registry entry that uses some of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.mirrors: dict[str, Mirror] = {}
        handler = type("Bound", (Handler,), {"mirrors": self.mirrors})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self._monkeypatch = monkeypatch
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def add(self, path: str, **behaviour: Any) -> Mirror:
        self.mirrors[path] = Mirror(**behaviour)
        return self.mirrors[path]

    def file(self, *paths: str, size: int | None = None, sha256: str | None = SHA) -> None:
        mirrors = tuple(self.url + path for path in paths)
        file = WeightFile(NAME, "weights of a test", ("some",), "MIT", "http://page", mirrors, size, sha256)
        self._monkeypatch.setitem(REGISTRY, NAME, file)


def get(folder: Path, **flags: Any) -> Path:
    return fetch(NAME, folder=folder, progress=False, **flags)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
