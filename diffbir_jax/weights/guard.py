"""Protection of the weights folder: checksums of first downloads, a check of file types, one download at a time."""

import json
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open

from diffbir_jax.console.errors import UserError
from diffbir_jax.files.locks import HeldError, held
from diffbir_jax.files.writing import replacing

RECORD = "checksums.json"


def read_record(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the first download of files without a published one, by file name.

    Raises:
        ValueError: checksums.json is damaged.
    """
    path = folder / RECORD
    if not path.exists():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not (isinstance(record, dict) and all(isinstance(digest, str) for digest in record.values())):
            raise ValueError("no table of names and checksums")
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}): mend it, or remove it and the next download counts as the first."
        ) from error
    return record


def write_record(folder: Path, record: dict[str, str]) -> None:
    """Write the record for `read_record`, atomically."""
    with replacing(folder / RECORD) as file:
        file.write((json.dumps(record, indent=2) + "\n").encode())


def make_place(folder: Path) -> None:
    """Make the folder of the files before anything is downloaded.

    Raises:
        OSError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Permissions do not tell of a read-only disk, so a file is made.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"{folder} cannot hold files ({error.strerror}): choose another folder by --folder DIR or DIFFBIR_WEIGHTS."
        ) from None


def mistaken(path: Path) -> str:
    """Return what servers send in place of files, in words; "" if a file is nothing of that kind."""
    with path.open("rb") as file:
        head = file.read(1000).lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page"
    return "a Git LFS pointer" if head.startswith(b"version https://git-lfs") else ""


def fault(path: Path, name: str) -> str:
    """Return what keeps a file from being whole weights of that name, in words; "" if nothing does.

    Of PyTorch's old files only the beginning can be checked: they have no mark at their end.
    """
    # Without a published SHA-256, this keeps login pages and halves of files out of the record.
    if name.endswith(".safetensors"):
        return _unsafe(path)
    with path.open("rb") as file:
        head = file.read(2)
    if head == b"PK":
        return "" if zipfile.is_zipfile(path) else "a zip archive without its end"
    return "" if head.startswith(b"\x80") else "something that does not begin as weights do"


def _unsafe(path: Path) -> str:
    try:
        with safe_open(path, "np"):
            return ""
    except SafetensorError:
        return "no whole safetensors file"


@contextmanager
def alone(target: Path) -> Iterator[None]:
    """Prevent other processes from downloading `target`, if the system has file locks.

    Raises:
        OSError: another process is downloading it.
    """
    lock = target.with_name(f"{target.name}.lock")
    with ExitStack() as stack:
        try:
            stack.enter_context(held(lock))
        except HeldError as error:
            raise OSError(
                f"{target} is being downloaded by process {error.owner}, which holds {lock}: wait for it or end it."
            ) from None
        stack.callback(lock.unlink, missing_ok=True)
        yield
