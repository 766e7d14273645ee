"""Download a published file: several mirrors, resumed downloads, checksums."""

import hashlib
import logging
import os
import zlib
from pathlib import Path

from diffbir_jax.weights.file import WeightFile
from diffbir_jax.weights.guard import RECORD, alone, fault, make_place, mistaken, read_record, write_record
from diffbir_jax.weights.transfer import BadAnswerError, DroppedError, RangeError, remove, size_of, transfer

DROPS = 3  # give up on a mirror after this many dropped transfers in a row without progress
STEP = (
    1 << 20
)  # bytes that count as progress: with fewer per request a large file would take thousands of them
LOG = logging.getLogger(__name__)


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
    make_place(target.parent)
    if file.sha256 is None:
        read_record(target.parent)  # finds a damaged record now, not after gigabytes
    failed: list[str] = []
    with alone(target):
        for url in file.mirrors:
            try:
                _download(file, url, target, progress)
                break
            except (BadAnswerError, DroppedError) as error:
                failed.append(f"{url}: {error}")
                LOG.warning("%s", failed[-1])
    return failed


def _download(file: WeightFile, url: str, target: Path, progress: bool) -> Path:
    """Download `file` from one mirror to `target`; after an error, the received bytes stay beside it."""
    partial = _partial(file, url, target)
    resumed = _collect(file, url, partial, progress)
    try:
        _check(file, partial)
    except BadAnswerError:
        remove(partial)
        if not resumed:
            raise
        # The first part may be another mirror's bad data: try once more from the beginning.
        return _download(file, url, target, progress)
    os.replace(partial, target)
    remove(partial)
    return target


def _partial(file: WeightFile, url: str, target: Path) -> Path:
    """Return the path of the unfinished download. Mirrors share it only if a SHA-256 proves that they agree."""
    mark = file.sha256[:8] if file.sha256 else f"{zlib.crc32(url.encode()):08x}"
    return target.with_name(f"{target.name}.{mark}.partial")


def _collect(file: WeightFile, url: str, partial: Path, progress: bool) -> bool:
    """Transfer until the file is complete; return whether it may hold bytes of an earlier call.

    It ends: a request counts as progress only if the unfinished file is longer than ever before by `STEP`, and `DROPS`
    others in a row give up.
    """
    resumed, best, drops, brought, whole = size_of(partial) > 0, size_of(partial), 0, 0, False
    while True:
        try:
            return not transfer(file, url, partial, progress, whole) and resumed
        except RangeError:
            whole = True  # a request for the whole file cannot fail like this, so it is the last of its kind
        except DroppedError as error:
            _check_beginning(partial, error.received)
            brought += error.received
            further = size_of(partial) >= best + STEP
            drops = 0 if further else drops + 1
            best = max(best, size_of(partial))
            # A dead mirror is left at once; one that has sent something deserves more.
            if drops >= DROPS or not brought:
                raise


def _check_beginning(partial: Path, received: int) -> None:
    """Raise BadAnswerError if a request brought the beginning of something else, such as a page without a length."""
    if received and received == size_of(partial) and (found := mistaken(partial)):
        remove(partial)
        raise BadAnswerError(f"sends {found}, not the file")


def _check(file: WeightFile, path: Path) -> None:
    """Compare with the published SHA-256 or, if there is none, with the one of the first download."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    wanted = file.sha256 or _seen_first(file, path, digest)
    if digest != wanted:
        record = path.with_name(RECORD)
        if found := mistaken(path):
            raise BadAnswerError(f"sends {found}, not the file")
        remedy = "" if file.sha256 else f" (first seen, in {record}: remove its line if that was wrong)"
        raise BadAnswerError(f"its SHA-256 is {digest}, wanted {wanted}{remedy}")


def _seen_first(file: WeightFile, path: Path, digest: str) -> str:
    seen = read_record(path.parent)
    if file.name not in seen:
        if found := mistaken(path) or fault(path, file.name):
            raise BadAnswerError(f"sends {found}, not the file")
        LOG.warning(
            "no SHA-256 of %s is published: recorded %s in %s.", file.name, digest, path.with_name(RECORD)
        )
        write_record(path.parent, seen | {file.name: digest})
    return seen.get(file.name, digest)
