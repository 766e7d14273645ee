"""A server whose paths answer in all the wrong ways, by the bytes that they put on the wire."""

import dataclasses
import gzip
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.weights.server import CONTENT

SIZE = len(CONTENT)
PAGE = b"<!DOCTYPE html><title>Log in</title>" + b" " * 500


@dataclasses.dataclass
class Asked:
    """One request: the byte that its range starts from (None: no range), and its number from 1."""

    start: int | None
    number: int


class Liar(BaseHTTPRequestHandler):
    """Answers by the function of its path, which gets this handler and the request."""

    paths: dict[str, Callable[["Liar", Asked], None]]
    asked: dict[str, list[Asked]]

    def do_GET(self) -> None:
        given = self.headers.get("Range")
        log = self.asked.setdefault(self.path, [])
        log.append(Asked(int(given[6:-1]) if given else None, len(log) + 1))
        with suppress(BrokenPipeError, ConnectionResetError):  # the client has had enough
            self.paths[self.path](self, log[-1])
        self.close_connection = True

    def say(self, code: int, body: bytes = b"", length: object = None, **headers: str) -> None:
        """Send a whole answer; `length` is its Content-Length, "" for none."""
        self.send_response(code)
        stated = len(body) if length is None else length
        if stated != "":
            self.send_header("Content-Length", str(stated))
        for name, value in ({"Content_Type": "application/octet-stream", "ETag": '"1"'} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


Answer = Callable[[Liar, Asked], None]


@contextmanager
def lying(paths: dict[str, Answer]) -> Iterator[tuple[str, dict[str, list[Asked]]]]:
    """Run a server of these paths; yields its address and what it was asked, by path."""
    asked: dict[str, list[Asked]] = {}
    http = ThreadingHTTPServer(
        ("127.0.0.1", 0),
        type("Bound", (Liar,), {"paths": paths, "asked": asked, "protocol_version": "HTTP/1.1"}),
    )
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{http.server_port}", asked
    finally:
        http.shutdown()
        http.server_close()


def good(liar: Liar, asked: Asked) -> None:
    """The file, or its rest."""
    start = asked.start or 0
    if asked.start is None:
        return liar.say(200, CONTENT)
    if start >= SIZE:
        return liar.say(416, Content_Range=f"bytes */{SIZE}")
    liar.say(206, CONTENT[start:], Content_Range=f"bytes {start}-{SIZE - 1}/{SIZE}")


def says(code: int, body: bytes = b"", length: object = None, **headers: str) -> Answer:
    """One answer, whatever is asked."""
    return lambda liar, asked: liar.say(code, body, length, **headers)


def drops(*lengths: int, then: Answer | None = None) -> Answer:
    """The file without ranges, cut after so many bytes, request by request; the last one again and again."""

    def answer(liar: Liar, asked: Asked) -> None:
        if asked.number > len(lengths) and then is not None:
            return then(liar, asked)
        liar.say(200, CONTENT[: lengths[min(asked.number, len(lengths)) - 1]], SIZE)

    return answer


def drops_ranges(step: int) -> Answer:
    """The file with ranges, `step` bytes at a time."""

    def answer(liar: Liar, asked: Asked) -> None:
        start = asked.start or 0
        headers = {"Content_Range": f"bytes {start}-{SIZE - 1}/{SIZE}"} if start else {}
        liar.say(206 if start else 200, CONTENT[start : start + step], SIZE - start, **headers)

    return answer


def ranged(headers: Callable[[int], dict[str, str]], after: int = 1000, code: int = 206) -> Answer:
    """First a drop after `after` bytes; then an answer with these headers to each range; the whole is good."""

    def answer(liar: Liar, asked: Asked) -> None:
        if asked.number == 1:
            return liar.say(200, CONTENT[:after], SIZE)
        if asked.start is None:
            return good(liar, asked)
        liar.say(code, b"" if code == 416 else CONTENT[asked.start :], **headers(asked.start))

    return answer


def chunked(body: bytes, end: bytes = b"0\r\n\r\n") -> Answer:
    """A body in chunks, which state no length of the whole."""

    def answer(liar: Liar, asked: Asked) -> None:
        liar.say(200, length="", Transfer_Encoding="chunked")
        for start in range(0, len(body), 100_000):
            part = body[start : start + 100_000]
            liar.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        liar.wfile.write(end)

    return answer


def endless(liar: Liar, asked: Asked) -> None:
    """The file in chunks and zeros after it, as long as the client listens."""
    liar.say(200, CONTENT, "", Transfer_Encoding="identity")
    while True:
        liar.wfile.write(bytes(100_000))


def endless_redirect(liar: Liar, asked: Asked) -> None:
    """A redirect to the good path, with a body that never ends."""
    liar.say(302, b"", "", Location="/good")
    while True:
        liar.wfile.write(bytes(100_000))


def hangs_up(liar: Liar, asked: Asked) -> None:
    """The connection ends without an answer."""


def raw(text: bytes) -> Answer:
    """These bytes in place of an answer."""
    return lambda liar, asked: liar.wfile.write(text) and None


def dripping(liar: Liar, asked: Asked) -> None:
    """One header, byte by byte; then the file."""
    start = f"HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\nX: ".encode()
    for byte in (*start, *b"a" * 100, *b"\r\n\r\n"):
        liar.wfile.write(bytes([byte]))
        time.sleep(0.0005)
    liar.wfile.write(CONTENT)


def redirects(target: str, code: int = 302) -> Answer:
    """A redirect, with the file as its body, which nobody should take."""
    return says(code, CONTENT, Location=target)


def chain(length: int) -> dict[str, Answer]:
    """Paths /hop1 ... that redirect one to the next; the last to /good."""
    hops = {f"/hop{i}": redirects(f"hop{i + 1}" if i < length else "/good") for i in range(1, length + 1)}
    return {path: answer for path, answer in hops.items()}


ZIPPED = gzip.compress(CONTENT)
