"""One request for a file: its redirects, the headers that say what comes, and the bytes, never more than announced."""

import re
import shutil
from contextlib import closing
from errno import ENOSPC
from http.client import responses
from pathlib import Path
from time import monotonic
from typing import BinaryIO, NamedTuple
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from tqdm import tqdm

from diffbir_jax.weights.file import WeightFile
from diffbir_jax.weights.heads import Session

CHUNK = 1 << 16
TIMEOUT = (10, 60)  # seconds: to connect, between two reads
PATIENCE = 60.0  # seconds after which a transfer must have brought SLOWEST bytes per second
SLOWEST = 1024
HOPS = 10  # redirects that are followed
LARGEST = 16 << 30  # bytes of a file whose size nobody states; the largest published file has a third of it
# What is said of a request without an answer; the first type that fits.
SILENCES: tuple[tuple[type[Exception], str], ...] = (
    (requests.ConnectTimeout, "no connection in time"),
    (requests.Timeout, "no answer in time"),
    (requests.exceptions.SSLError, "its certificate is not accepted"),
    (requests.exceptions.ProxyError, "the proxy does not answer"),
    (requests.ConnectionError, "cannot be reached, or ends the connection without an answer"),
)
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class BadAnswerError(Exception):
    """A mirror sent something other than the file; the message says what."""


class RangeError(BadAnswerError):
    """A mirror does not continue the unfinished file; it may still send the whole."""


class DroppedError(Exception):
    """The transfer ended before the file; `received` is the number of bytes that this request brought."""

    def __init__(self, message: str, received: int = 0):
        """Take both."""
        super().__init__(message)
        self.received = received


class Offer(NamedTuple):
    """The bytes that a mirror is about to send: from `first` up to `end`; `end` is None if nobody states it."""

    first: int
    end: int | None
    total: int | None


class _Session(Session):
    """A session that leaves redirects to `_ask`: requests would read the bodies of redirects to their end."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return that there is none."""


def size_of(path: Path) -> int:
    """Return the size of a file, 0 if there is none."""
    return path.stat().st_size if path.exists() else 0


def etag_of(partial: Path) -> Path:
    """Return the file that holds the ETag of an unfinished download."""
    return partial.with_suffix(".etag")


def remove(partial: Path) -> None:
    """Remove an unfinished download and its ETag."""
    partial.unlink(missing_ok=True)
    etag_of(partial).unlink(missing_ok=True)


def transfer(file: WeightFile, url: str, partial: Path, progress: bool, whole: bool = False) -> bool:
    """Make one request. Append to `partial`, or replace it if the mirror sends the whole file.

    Args:
        file: the file.
        url: address of a mirror.
        partial: the unfinished download.
        progress: draw a progress bar on standard error.
        whole: ask for the whole file, whatever `partial` holds.

    Returns:
        Whether all bytes of the file come from this request.

    Raises:
        BadAnswerError: the mirror sends something else; as RangeError if it only does not continue.
        DroppedError: the transfer ended early; `partial` holds what came.
        OSError: the disk is too small or full.
    """
    start, etag = (0, "") if whole else _known(file, partial)
    if start and start == file.size:
        return False
    with _Session() as session, closing(_ask(session, url, _headers(file, start, etag))) as response:
        if response.status_code == 416 and start:
            return _complete(response, start)
        offer = _offer(file, response, start, etag)
        _check_disk(partial.parent, (offer.total or 0) - offer.first)
        received = _write(file, response, partial, offer, progress)
    end = offer.first + received
    if offer.total is not None and end < offer.total:
        raise DroppedError(f"the connection broke after {_progress(offer, received)}", received)
    return offer.first == 0


def _known(file: WeightFile, partial: Path) -> tuple[int, str]:
    """Return the number of bytes to go on from, and their ETag; 0 bytes unless the rest certainly belongs to them."""
    start, stored = size_of(partial), etag_of(partial)
    if file.size is not None and start > file.size:
        return 0, ""
    if file.sha256 or start == file.size:
        return start, ""  # the SHA-256 checks the result, or nothing is missing
    etag = stored.read_text(encoding="utf-8") if stored.exists() else ""
    # Only a strong ETag says that two answers are equal byte by byte.
    return (start, etag) if etag.startswith('"') else (0, "")


def _headers(file: WeightFile, start: int, etag: str) -> dict[str, str]:
    # Without "identity" the server may compress, and then Content-Length is not the length of the file.
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    return headers | ({"If-Range": etag} if start and not file.sha256 else {})


def _ask(session: requests.Session, url: str, headers: dict[str, str]) -> requests.Response:
    """Return the answer at the end of the redirects, its body unread."""
    seen = [url]
    while len(seen) <= HOPS + 1:
        response = _get(session, seen[-1], headers)
        if not response.is_redirect:
            return response
        response.close()  # unread: the body of a redirect may have no end
        seen.append(_next(seen[-1], response.headers["Location"]))
    told = "redirects in a circle" if len(set(seen)) < len(seen) else f"redirects more than {HOPS} times"
    raise BadAnswerError(told)


def _get(session: requests.Session, url: str, headers: dict[str, str]) -> requests.Response:
    try:
        return session.get(url, headers=headers, stream=True, timeout=TIMEOUT, allow_redirects=False)
    except requests.RequestException as error:
        told = next((text for kind, text in SILENCES if isinstance(error, kind)), "")
        if told:
            raise DroppedError(told + _cause(error)) from None
        raise BadAnswerError(f"cannot be asked ({type(error).__name__})") from None


def _cause(error: BaseException) -> str:
    """Return the system's reason of a failed connection, in brackets; "" if it gave none."""
    while error.__context__ is not None:
        error = error.__context__
    reason = error.strerror if isinstance(error, OSError) else None
    return f" ({reason})" if isinstance(reason, str) else ""


def _next(url: str, location: str) -> str:
    """Return the address that a redirect names."""
    try:
        target = urljoin(url, location)
        scheme = urlsplit(target).scheme
    except ValueError:
        raise BadAnswerError(f"redirects to {location[:80]!r}, which is no address") from None
    if scheme not in ("http", "https"):
        raise BadAnswerError(f"redirects to {target[:80]!r}, which is no web address")
    if scheme == "http" and urlsplit(url).scheme == "https":
        raise BadAnswerError("redirects from https to http, where anyone on the way can change the file")
    return target


def _complete(response: requests.Response, start: int) -> bool:
    """Read the answer that no byte is left: False if the unfinished file is the whole, else RangeError."""
    if response.headers.get("Content-Range") == f"bytes */{start}":
        return False
    raise RangeError(f"has no bytes beyond the {start:,} of the unfinished download")


def _offer(file: WeightFile, response: requests.Response, start: int, etag: str) -> Offer:
    """Check the headers of an answer; BadAnswerError if they cannot belong to the file."""
    _check_kind(response)
    offer = _ranged(response, start, etag) if response.status_code == 206 else _whole(response)
    total = file.size if offer.total is None else offer.total
    if file.size not in (None, total):
        raise BadAnswerError(f"offers {total:,} bytes, the file has {file.size:,}")
    if (total or 0) > LARGEST:
        raise BadAnswerError(f"offers {total:,} bytes; no published file has more than {LARGEST:,}")
    return Offer(offer.first, total if offer.end is None else offer.end, total)


def _check_kind(response: requests.Response) -> None:
    """Raise BadAnswerError if the answer is an error, a page or compressed."""
    code, headers = response.status_code, response.headers
    if code not in (200, 206):
        # The server's own words may be anything, so the code's usual name is shown.
        raise BadAnswerError(f"{code} {responses.get(code, 'unknown code')}")
    kind, packed = headers.get("Content-Type", ""), headers.get("Content-Encoding", "identity")
    if kind.startswith(("text/", "application/json")):
        raise BadAnswerError(f"answers with a web page or a message ({kind[:80]}), not with the file")
    if packed != "identity":
        raise BadAnswerError(f"sends the file compressed ({packed[:80]}), which was not asked for")


def _whole(response: requests.Response) -> Offer:
    length = _length(response)
    if length == 0:
        raise BadAnswerError("sends an empty file")
    return Offer(0, length, length)


def _ranged(response: requests.Response, start: int, etag: str) -> Offer:
    """Read an answer with a part of the file, which must begin at `start`."""
    stated = response.headers.get("Content-Range", "")
    found, length = _RANGE.fullmatch(stated), _length(response)
    first, end = (int(found[1]), int(found[2]) + 1) if found else (-1, -1)
    total = int(found[3]) if found and found[3] != "*" else None
    wrong = first != start or end <= first or length not in (None, end - first) or (total or end) < end
    if wrong:
        told = f"answers with {stated[:80]!r} in {length} bytes, asked for bytes from {start:,}"
        raise RangeError(told) if start else BadAnswerError(told)
    if etag and response.headers.get("ETag", etag) != etag:
        raise RangeError("continues another file than the unfinished one")
    return Offer(first, end, total)


def _length(response: requests.Response) -> int | None:
    """Return Content-Length, None if there is none."""
    # Chunks have their own end, and a length beside them says nothing.
    text = response.headers.get("Content-Length")
    if text is None or "chunked" in response.headers.get("Transfer-Encoding", ""):
        return None
    if not re.fullmatch(r"\d{1,19}", text):
        raise BadAnswerError(f"states the length {text[:40]!r}, which is no number of bytes")
    return int(text)


def _check_disk(folder: Path, wanted: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise OSError(
            f"{folder} has {free:,} bytes free, {wanted:,} are needed: make room or set DIFFBIR_WEIGHTS elsewhere."
        )


def _write(file: WeightFile, response: requests.Response, partial: Path, offer: Offer, progress: bool) -> int:
    """Write the body to `partial`; return the number of bytes."""
    try:
        with _bar(file, offer, progress) as bar, partial.open("ab" if offer.first else "wb") as out:
            # After the old bytes are gone: a new ETag must never stand beside them.
            etag_of(partial).write_text(response.headers.get("ETag", ""), encoding="utf-8")
            return _copy(response, out, offer, bar)
    except BadAnswerError:
        remove(partial)
        raise
    except OSError as error:
        if error.errno != ENOSPC:
            raise
        told = (
            "the disk is full: make room, and the same command continues; or set DIFFBIR_WEIGHTS elsewhere."
        )
        raise OSError(f"{partial.parent}: {told}") from None


def _bar(file: WeightFile, offer: Offer, progress: bool) -> tqdm:
    size = {"total": offer.total, "initial": offer.first, "unit": "B", "unit_scale": True}
    return tqdm(desc=file.name, disable=not progress, **size)


def _copy(response: requests.Response, out: BinaryIO, offer: Offer, bar: tqdm) -> int:
    """Copy the body, cut off at its announced end; return the number of bytes."""
    room = LARGEST if offer.end is None else offer.end - offer.first
    received, mark, since = 0, 0, monotonic()
    while data := _read(response, offer, received):
        if received + len(data) > room:
            raise BadAnswerError(f"sends more than the {room:,} bytes that belong to the file")
        out.write(data)
        bar.update(len(data))
        received += len(data)
        if (passed := monotonic() - since) >= PATIENCE:
            if received - mark < SLOWEST * passed:
                raise DroppedError(f"sends less than {SLOWEST:,} bytes per second", received)
            mark, since = received, since + passed
    return received


def _read(response: requests.Response, offer: Offer, received: int) -> bytes:
    """Return the bytes that are there, b"" at the end."""
    try:
        # read1 does not wait for a full chunk, so a slow mirror is noticed.
        return response.raw.read1(CHUNK, decode_content=False)
    except urllib3.exceptions.ReadTimeoutError:
        raise DroppedError(f"sends nothing more after {_progress(offer, received)}", received) from None
    except urllib3.exceptions.HTTPError:
        raise DroppedError(f"the connection broke after {_progress(offer, received)}", received) from None


def _progress(offer: Offer, received: int) -> str:
    """Return how far the file is, in words."""
    of = "" if offer.total is None else f" of {offer.total:,}"
    return f"{offer.first + received:,}{of} bytes"
