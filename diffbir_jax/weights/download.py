"""Download a published file: several mirrors, resumed downloads, checksums."""

import hashlib
import logging
import os
import shutil
import zlib
from pathlib import Path

import requests
from tqdm import tqdm

from diffbir_jax.weights.file import WeightFile
from diffbir_jax.weights.guard import RECORD, alone, looks_like_weights, read_record, write_record

CHUNK = 1 << 16
TIMEOUT = (10, 60)  # seconds: to connect, between two reads
DROPS = 3  # give up on a mirror after this many dropped connections in a row without a new byte
LOG = logging.getLogger(__name__)


class _BadAnswer(Exception):
    """A mirror sent something other than the file."""


class _Dropped(Exception):
    """The connection broke before the end of the file."""


def from_mirrors(file: WeightFile, target: Path, progress: bool = True) -> list[str]:
    """Download `file` from the first mirror that gives it.

    The next call continues an interrupted download. The file gets its name only after its size and SHA-256 are checked.

    Args:
        file: the file; its mirrors are tried in order.
        target: the path to write; its folder is made if missing.
        progress: draw a progress bar on standard error.

    Returns:
        The failures of mirrors, one line each. The file exists unless all mirrors failed.

    Raises:
        ValueError: checksums.json beside it is damaged.
        OSError: the disk is too small or not writable, or another process downloads the file.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if file.sha256 is None:
        read_record(target.parent)  # finds a damaged record now, not after gigabytes
    failed: list[str] = []
    with alone(target):
        for url in file.mirrors:
            try:
                _download(file, url, target, progress)
                break
            except (_BadAnswer, _Dropped, requests.RequestException) as error:
                failed.append(f"{url}: {_reason(error)}")
                LOG.warning("%s", failed[-1])
    return failed


def _reason(error: Exception) -> str:
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"{error.response.status_code} {error.response.reason}"
    return str(error) if isinstance(error, (_BadAnswer, _Dropped)) else type(error).__name__


def _download(file: WeightFile, url: str, target: Path, progress: bool) -> Path:
    """Download `file` from one mirror to `target`; after an error, the received bytes stay beside it."""
    partial = _partial(file, url, target)
    resumed = _collect(file, url, partial, progress)
    try:
        _check(file, partial)
    except _BadAnswer:
        _remove(partial)
        if not resumed:
            raise
        # The first part may be another mirror's bad data: try once more from the beginning.
        return _download(file, url, target, progress)
    os.replace(partial, target)
    _remove(partial)
    return target


def _partial(file: WeightFile, url: str, target: Path) -> Path:
    """Return the path of the unfinished download. Mirrors share it only if a SHA-256 proves that they agree."""
    mark = file.sha256[:8] if file.sha256 else f"{zlib.crc32(url.encode()):08x}"
    return target.with_name(f"{target.name}.{mark}.partial")


def _etag(partial: Path) -> Path:
    return partial.with_suffix(".etag")


def _remove(partial: Path) -> None:
    partial.unlink(missing_ok=True)
    _etag(partial).unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _collect(file: WeightFile, url: str, partial: Path, progress: bool) -> bool:
    """Transfer until the file is complete; return whether it starts with bytes of an earlier call."""
    resumed, drops = _size(partial) > 0, 0
    while True:
        before = _size(partial)
        try:
            whole = _transfer(file, url, partial, progress)
            return resumed and not whole
        except (_Dropped, requests.ConnectionError, requests.Timeout):
            drops = 0 if _size(partial) > before else drops + 1
            if drops >= DROPS or (drops and not before):
                raise


def _transfer(file: WeightFile, url: str, partial: Path, progress: bool) -> bool:
    """Make one request. Append to `partial`, or replace it and return True if the server sends the whole file."""
    start = _size(partial)
    if start and start == file.size:
        return False
    # Without "identity" the server may compress, and then Content-Length is not the length of the file.
    headers = {"Accept-Encoding": "identity"} | _range(file, partial, start)
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == 416:
            if response.headers.get("Content-Range") == f"bytes */{start}":
                return False  # the file was already complete
            _remove(partial)
            raise _Dropped("the server has no bytes beyond those of the unfinished download")
        response.raise_for_status()
        continued = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        # Some servers ignore the range and send everything with code 200.
        start = start if response.status_code == 206 and continued else 0
        total = _announced(file, response, start)
        _check_disk(partial.parent, (total or 0) - start)
        _etag(partial).write_text(response.headers.get("ETag", ""), encoding="utf-8")
        _write(
            response,
            partial,
            start,
            tqdm(desc=file.name, total=total, initial=start, unit="B", unit_scale=True, disable=not progress),
        )
    if total is not None and _size(partial) != total:
        raise _Dropped(f"the connection broke after {_size(partial):,} of {total:,} bytes")
    return start == 0


def _range(file: WeightFile, partial: Path, start: int) -> dict[str, str]:
    """Return headers that ask for the missing bytes, but only if the same file is certain."""
    # A SHA-256 checks the result later. Without one, a strong ETag lets the server compare.
    etag = _etag(partial).read_text(encoding="utf-8") if _etag(partial).exists() else ""
    if start and file.sha256:
        return {"Range": f"bytes={start}-"}
    if start and etag.startswith('"'):
        return {"Range": f"bytes={start}-", "If-Range": etag}
    return {}


def _announced(file: WeightFile, response: requests.Response, start: int) -> int | None:
    """Return the size of the whole file according to the server."""
    kind = response.headers.get("Content-Type", "")
    if kind.startswith(("text/", "application/json")):
        raise _BadAnswer(f"answers with a web page or a message ({kind}), not with the file")
    length = response.headers.get("Content-Length")
    total = start + int(length) if length else file.size
    if file.size is not None and total != file.size:
        raise _BadAnswer(f"offers {total:,} bytes, the file has {file.size:,}")
    return total


def _check_disk(folder: Path, wanted: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise OSError(
            f"{folder} has {free:,} bytes free, {wanted:,} are needed: make room or set DIFFBIR_WEIGHTS elsewhere."
        )


def _write(response: requests.Response, partial: Path, start: int, bar: tqdm) -> None:
    with bar, partial.open("ab" if start else "wb") as out:
        try:
            for chunk in response.iter_content(CHUNK):
                out.write(chunk)
                bar.update(len(chunk))
        except requests.exceptions.ChunkedEncodingError as error:
            raise _Dropped("the connection broke") from error


def _check(file: WeightFile, path: Path) -> None:
    """Compare with the published SHA-256 or, if there is none, with the one of the first download."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    wanted = file.sha256 or _seen_first(file, path, digest)
    if digest != wanted:
        record = path.with_name(RECORD)
        remedy = "" if file.sha256 else f" (first seen, in {record}: remove its line if that was wrong)"
        raise _BadAnswer(f"its SHA-256 is {digest}, wanted {wanted}{remedy}")


def _seen_first(file: WeightFile, path: Path, digest: str) -> str:
    seen = read_record(path.parent)
    if file.name not in seen:
        if not looks_like_weights(path, file.name):
            raise _BadAnswer("answers with something that does not begin as weights do")
        LOG.warning(
            "no SHA-256 of %s is published: recorded %s in %s.", file.name, digest, path.with_name(RECORD)
        )
        write_record(path.parent, seen | {file.name: digest})
    return seen.get(file.name, digest)
