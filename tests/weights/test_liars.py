"""Downloads from servers that cut, lie, loop, redirect and lack ranges: each ends, with a true line or the file."""

import errno
import itertools
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import requests

from diffbir_jax.weights import REGISTRY, MissingWeightsError, WeightFile, download, heads, transfer
from tests.weights import liars
from tests.weights.liars import (
    PAGE,
    SIZE,
    Answer,
    Asked,
    Liar,
    chunked,
    drops,
    good,
    ranged,
    raw,
    redirects,
    says,
)
from tests.weights.server import CONTENT, NAME, SHA, archive, get, names

PARTIAL = f"{NAME}.{SHA[:8]}.partial"
WRONG = archive(SIZE, b"other")
KNOWN, UNKNOWN = {"size": SIZE, "sha256": SHA}, {"size": None, "sha256": None}
SHA_ONLY, SIZE_ONLY = {"size": None, "sha256": SHA}, {"size": SIZE, "sha256": None}
Run = Callable[..., dict[str, list[Asked]]]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Start a server of these paths and register a file with these mirrors; returns what the server is asked."""
    for variable in ("DIFFBIR_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    running = []

    def start(paths: dict[str, Answer], *mirrors: str, **known: Any) -> dict[str, list[Asked]]:
        running.append(liars.lying({"/good": good} | paths))
        url, asked = running[-1].__enter__()
        file = WeightFile(
            NAME,
            "weights of a test",
            ("some",),
            "MIT",
            "http://page",
            tuple(url + x for x in mirrors),
            **known,
        )
        monkeypatch.setitem(REGISTRY, NAME, file)
        return asked

    yield start
    for server in running:
        server.__exit__(None, None, None)


# Answer, what is known of the file, the reason that is told, the most requests for it.
BAD: dict[str, tuple[Answer, dict[str, Any], str, int]] = {
    "403": (says(403), KNOWN, "403 Forbidden", 1),
    "404 with a page": (says(404, PAGE, Content_Type="text/html"), KNOWN, "404 Not Found", 1),
    "416 to no range": (says(416), KNOWN, "416 Re", 1),
    "429": (says(429, Retry_After="9999"), KNOWN, "429 Too Many Requests", 1),
    "500": (says(500), KNOWN, "500 Internal Server Error", 1),
    "503": (says(503), UNKNOWN, "503 Service Unavailable", 1),
    "a code of its own": (says(799), KNOWN, "799 unknown code", 1),
    "204": (says(204), KNOWN, "204 No Content", 1),
    "300 without address": (says(300, PAGE), KNOWN, "300 Multiple Choices", 1),
    "page": (says(200, PAGE, Content_Type="text/html"), KNOWN, r"a web page or a message \(text/html\)", 1),
    "page as file": (says(200, PAGE), SHA_ONLY, "sends a web page, not the file", 1),
    "page as file, nothing known": (says(200, PAGE), UNKNOWN, "sends a web page, not the file", 1),
    "page in chunks": (chunked(PAGE), KNOWN, "sends a web page, not the file", 1),
    "json": (says(200, b"{}", Content_Type="application/json"), KNOWN, "a message .application/json", 1),
    "pointer": (says(200, b"version https://git-lfs.github.com/spec/v1\n"), UNKNOWN, "a Git LFS pointer", 1),
    "empty": (says(200), SHA_ONLY, "sends an empty file", 1),
    "empty, nothing known": (says(200), UNKNOWN, "sends an empty file", 1),
    "empty in chunks": (chunked(b""), UNKNOWN, "something that does not begin as weights do", 1),
    "longer": (says(200, CONTENT + b"x"), KNOWN, "offers 1,048,577 bytes, the file has 1,048,576", 1),
    "shorter": (says(200, CONTENT[:-1]), KNOWN, "offers 1,048,575 bytes, the file has 1,048,576", 1),
    "says less": (says(200, CONTENT, SIZE // 2), SIZE_ONLY, "offers 524,288 bytes", 1),
    "says less, SHA known": (says(200, CONTENT, SIZE // 2), SHA_ONLY, "its SHA-256 is [0-9a-f]{64}, wanted", 1),
    "says less, nothing known": (says(200, CONTENT, SIZE // 2), UNKNOWN, "a zip archive without its end", 1),
    "says more": (says(200, CONTENT, SIZE + 9), UNKNOWN, "broke after 1,048,576 of 1,048,585 bytes", 5),
    "says far more": (says(200, CONTENT, 10**15), SHA_ONLY, "no published file has more than", 1),
    "says no number": (says(200, CONTENT, "many"), UNKNOWN, "states the length 'many', which is no number", 1),
    "says minus": (says(200, CONTENT, -1), UNKNOWN, "states the length '-1', which is no number", 1),
    "more in chunks": (chunked(CONTENT + b"x"), SIZE_ONLY, "sends more than the 1,048,576 bytes", 1),
    "less in chunks": (chunked(CONTENT[:-9]), KNOWN, "broke after 1,048,567 of 1,048,576 bytes", 5),
    "chunks without end": (chunked(CONTENT, b""), UNKNOWN, "broke after 1,048,576 bytes", 5),
    "chunks of no length": (chunked(CONTENT[:9], b"zz\r\n"), UNKNOWN, "broke after 9 bytes", 3),
    "no end": (liars.endless, KNOWN, "sends more than the 1,048,576 bytes", 1),
    "wrong bytes": (says(200, WRONG), KNOWN, "its SHA-256 is [0-9a-f]{64}, wanted", 1),
    "compressed": (
        says(200, liars.ZIPPED, Content_Encoding="gzip"), KNOWN, r"sends the file compressed \(gzip\)", 1,
    ),
    "part without range": (
        says(206, CONTENT[9:], Content_Range=f"bytes 9-{SIZE - 1}/{SIZE}"), KNOWN, "asked for bytes from 0", 1,
    ),
    "cut at once": (drops(0), KNOWN, "broke after 0 of 1,048,576 bytes", 1),
    "cut after a byte": (drops(1), KNOWN, "broke after", 3),
    "cut in the middle": (drops(SIZE // 2), SIZE_ONLY, "broke after 524,288 of 1,048,576 bytes", 3),
    "cut before the last byte": (drops(SIZE - 1), UNKNOWN, "broke after 1,048,575 of 1,048,576 bytes", 3),
    "cut here and there": (drops(9000, 100, 8000, 200, 9999, 100), KNOWN, "broke after", 3),
    "one byte at a time": (liars.drops_ranges(1), KNOWN, "broke after", 3),
    "hangs up": (liars.hangs_up, KNOWN, "cannot be reached, or ends the connection without an answer", 1),
    "no HTTP": (raw(b"220 ftp ready\r\n"), KNOWN, "ends the connection without an answer", 1),
    "half a header": (raw(b"HTTP/1.1 200 OK\r\nContent-Le"), KNOWN, "broke after 0 of 1,048,576 bytes", 1),
    "circle": (redirects("/bad"), KNOWN, "redirects in a circle", 11),
    "to a file": (redirects("file:///etc/hostname"), KNOWN, "redirects to 'file:///etc/hostname', which is no web", 1),
    "to ftp": (redirects("ftp://127.0.0.1/x", 301), UNKNOWN, "'ftp://127.0.0.1/x', which is no web address", 1),
    "to nonsense": (redirects("http://[::1/x"), KNOWN, "redirects to 'http://.::1/x', which is no address", 1),
    "to a dead port": (redirects("http://127.0.0.1:1/x", 307), KNOWN, "cannot be reached", 1),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_mirror_ends_with_its_reason(serve: Run, tmp_path: Path, case: str) -> None:
    """One true line that names it, within its bound of requests; nothing has the file's name."""
    answer, known, reason, most = BAD[case]
    asked = serve({"/bad": answer}, "/bad", **known)
    with pytest.raises(MissingWeightsError) as caught:
        get(tmp_path)
    (line,) = [line for line in str(caught.value).splitlines() if "/bad:" in line]
    assert re.search(f"/bad: .*({reason})", line), line
    assert "Put a copy there or give it" in str(caught.value)
    assert len(asked["/bad"]) <= most
    assert NAME not in names(tmp_path) and "checksums.json" not in names(tmp_path)


@pytest.mark.parametrize("case", BAD)
def test_after_any_failure_the_next_mirror_is_taken(serve: Run, tmp_path: Path, case: str) -> None:
    answer, known, _, most = BAD[case]
    asked = serve({"/bad": answer}, "/bad", "/good", **known)
    assert get(tmp_path).read_bytes() == CONTENT
    assert len(asked["/bad"]) <= most and asked["/good"]


GOOD: dict[str, tuple[dict[str, Answer], dict[str, Any]]] = {
    "chunks": ({"/a": chunked(CONTENT)}, UNKNOWN),
    "chunks without end, size known": ({"/a": chunked(CONTENT, b"")}, SIZE_ONLY),
    "no length": ({"/a": says(200, CONTENT, "")}, KNOWN),
    "a range of the whole": ({"/a": says(206, CONTENT, Content_Range=f"bytes 0-{SIZE - 1}/{SIZE}")}, KNOWN),
    "one redirect": ({"/a": redirects("/good", 308)}, KNOWN),
    "ten redirects": ({"/a": redirects("/hop1")} | liars.chain(9), UNKNOWN),
    "a redirect without end": ({"/a": liars.endless_redirect}, KNOWN),
    "cut, then good": ({"/a": drops(300_000, then=good)}, KNOWN),
    "cut thrice with ranges": ({"/a": liars.drops_ranges(SIZE // 3 + 1)}, SHA_ONLY),
    "cut, no ranges": ({"/a": drops(300_000, then=says(200, CONTENT))}, KNOWN),
    "cut, wrong range": ({"/a": ranged(lambda start: {"Content_Range": f"bytes 0-{SIZE - 1}/{SIZE}"})}, KNOWN),
    "cut, no Content-Range": ({"/a": ranged(lambda start: {})}, KNOWN),
    "cut, a range of another file": (
        {"/a": ranged(lambda start: {"Content_Range": f"bytes {start}-{SIZE - 1}/{SIZE}", "ETag": '"2"'})}, UNKNOWN,
    ),
    "cut, 416": ({"/a": ranged(lambda start: {"Content_Range": "bytes */7"}, code=416)}, KNOWN),
    "cut, 416 without a size": ({"/a": ranged(lambda start: {}, code=416)}, SHA_ONLY),
}  # fmt: skip


@pytest.mark.parametrize("case", GOOD)
def test_what_can_be_completed_is(serve: Run, tmp_path: Path, case: str) -> None:
    paths, known = GOOD[case]
    asked = serve(paths, "/a", **known)
    assert get(tmp_path).read_bytes() == CONTENT
    assert len(asked["/a"]) <= 4
    assert not [name for name in names(tmp_path) if "partial" in name or name.endswith((".etag", ".lock"))]


def test_eleven_redirects_are_too_many(serve: Run, tmp_path: Path) -> None:
    asked = serve(liars.chain(11), "/hop1", **KNOWN)
    with pytest.raises(MissingWeightsError, match="/hop1: redirects more than 10 times"):
        get(tmp_path)
    assert "/good" not in asked


def test_https_does_not_lead_to_http() -> None:
    with pytest.raises(transfer.BadAnswerError, match="redirects from https to http, where anyone"):
        transfer._next("https://a/b", "http://a/b")
    assert transfer._next("https://a/b", "/c") == "https://a/c"


@pytest.mark.parametrize("kept", [b"", CONTENT[:5000], WRONG[:5000], CONTENT + b"more", WRONG, WRONG[:-1]])
@pytest.mark.parametrize("known", [KNOWN, SHA_ONLY], ids=["size", "no size"])
def test_a_part_of_before_ends_in_the_right_file(
    serve: Run, tmp_path: Path, kept: bytes, known: dict[str, Any]
) -> None:
    """Whatever it holds."""
    asked = serve({}, "/good", **known)
    (tmp_path / PARTIAL).write_bytes(kept)
    assert get(tmp_path).read_bytes() == CONTENT
    assert names(tmp_path) == [NAME] and len(asked["/good"]) <= 2


def test_a_part_is_resumed_and_a_bad_mirror_does_not_cost_it(serve: Run, tmp_path: Path) -> None:
    asked = serve(
        {"/page": says(200, PAGE, Content_Type="text/html"), "/no": says(503)},
        "/page",
        "/no",
        "/good",
        **KNOWN,
    )
    (tmp_path / PARTIAL).write_bytes(CONTENT[:9000])
    assert get(tmp_path).read_bytes() == CONTENT
    assert [each.start for path in ("/page", "/no", "/good") for each in asked[path]] == [9000] * 3


def test_what_is_kept_is_told(serve: Run, tmp_path: Path) -> None:
    serve({"/a": liars.drops_ranges(9000)}, "/a", **KNOWN)
    with pytest.raises(MissingWeightsError, match="27,000 bytes are kept: the same command continues"):
        get(tmp_path)
    assert names(tmp_path) == [PARTIAL.replace("partial", "etag"), PARTIAL]


def test_a_silent_mirror_is_left(serve: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its answer, and in the middle of the file."""
    enough = threading.Event()

    def silent(liar: Liar, asked: Asked) -> None:
        enough.wait(60)

    def stops(liar: Liar, asked: Asked) -> None:
        liar.say(206 if asked.start else 200, b"" if asked.start else CONTENT[:500], SIZE)
        enough.wait(60)

    monkeypatch.setattr(transfer, "TIMEOUT", (10, 0.05))
    serve({"/silent": silent, "/stops": stops}, "/silent", "/stops", **UNKNOWN)
    try:
        with pytest.raises(MissingWeightsError) as caught:
            get(tmp_path)
    finally:
        enough.set()
    assert "/silent: no answer in time" in str(caught.value)
    assert re.search("/stops: (sends nothing more after|no answer in time)", str(caught.value))


def test_headers_that_drip_end(serve: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock is an age later, and no read is slow. The next mirror is asked as usual."""
    asked = serve({"/drips": liars.dripping, "/too": liars.dripping}, "/drips", "/too", **KNOWN)
    ages = itertools.count()
    with monkeypatch.context() as patch:
        patch.setattr(heads, "monotonic", lambda: 1e9 * next(ages))
        with pytest.raises(MissingWeightsError) as caught:
            get(tmp_path)
    while not asked.keys() >= {"/drips", "/too"}:
        time.sleep(0.001)  # the client may give up before the server has read what it was sent
    assert [len(asked[path]) for path in ("/drips", "/too")] == [1, 1]
    for path in ("/drips", "/too"):
        assert f"{path}: no answer in time" in str(caught.value)
    assert get(tmp_path).read_bytes() == CONTENT  # in time, by the clock


def test_a_trickle_ends(serve: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 1e9  # every look at the clock is an age later
        return now

    monkeypatch.setattr(transfer, "monotonic", clock)
    asked = serve({"/slow": liars.drops_ranges(SIZE)}, "/slow", **KNOWN)
    with pytest.raises(MissingWeightsError, match="/slow: sends less than 1,024 bytes per second"):
        get(tmp_path)
    assert len(asked["/slow"]) <= download.DROPS


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (requests.exceptions.SSLError("bad"), "its certificate is not accepted"),
        (requests.exceptions.ProxyError("bad"), "the proxy does not answer"),
        (requests.ConnectTimeout(), "no connection in time"),
        (requests.ReadTimeout(), "no answer in time"),
        (requests.exceptions.InvalidURL("bad"), r"cannot be asked \(InvalidURL\)"),
    ],
)
def test_errors_of_the_network_are_told_in_words(
    serve: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    really = requests.Session.get

    def get_or_fail(self: requests.Session, url: str, **more: Any) -> requests.Response:
        if url.endswith("/bad"):
            raise error
        return really(self, url, **more)

    monkeypatch.setattr(requests.Session, "get", get_or_fail)
    serve({}, "/bad", **KNOWN)
    with pytest.raises(MissingWeightsError, match=f"/bad: {told}"):
        get(tmp_path)
    serve({}, "/bad", "/good", **KNOWN)
    assert get(tmp_path).read_bytes() == CONTENT


def failing(error: BaseException, after: int) -> Callable[..., int]:
    """`transfer._copy` that writes `after` bytes and raises."""

    def copy(response: requests.Response, out: BinaryIO, *more: object) -> int:
        out.write(response.raw.read(after))
        raise error

    return copy


def test_a_full_disk_ends_the_download_and_the_same_command_continues(
    serve: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = serve({}, "/good", "/good", **KNOWN)
    with monkeypatch.context() as patch:
        patch.setattr(transfer, "_copy", failing(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 7000))
        with pytest.raises(OSError, match=f"{tmp_path}: the disk is full: make room, and the same command"):
            get(tmp_path)
    assert get(tmp_path).read_bytes() == CONTENT
    assert [each.start for each in asked["/good"]] == [None, 7000]


def test_ctrl_c_keeps_what_came(serve: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = serve({}, "/good", "/good", **KNOWN)
    with monkeypatch.context() as patch:
        patch.setattr(transfer, "_copy", failing(KeyboardInterrupt(), 9000))
        with pytest.raises(KeyboardInterrupt):
            get(tmp_path)
    assert (tmp_path / PARTIAL).read_bytes() == CONTENT[:9000] and f"{NAME}.lock" not in names(tmp_path)
    assert get(tmp_path).read_bytes() == CONTENT
    assert [each.start for each in asked["/good"]] == [None, 9000]


def test_a_folder_that_cannot_be_written_is_told_before_any_request(
    serve: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = serve({}, "/good", **KNOWN)
    (tmp_path / "file").touch()
    with pytest.raises(
        OSError, match=r"file/in cannot hold files \(.*\): choose another folder by --folder DIR"
    ):
        get(tmp_path / "file" / "in")

    def read_only(**where: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("diffbir_jax.weights.guard.tempfile.TemporaryFile", read_only)
    with pytest.raises(OSError, match=r"cannot hold files \(Read-only file system\): choose another folder"):
        get(tmp_path)
    assert not asked
