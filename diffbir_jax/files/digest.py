"""SHA-256 of files; a sidecar recognises files by it."""

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict


class FileRecord(TypedDict):
    """A file that a sidecar names."""

    path: str
    sha256: str
    bytes: int


def file_record(path: Path) -> FileRecord:
    """Return a file's path as given, SHA-256 and size; OSError if it cannot be read."""
    return {"path": str(path), "sha256": sha256(path), "bytes": path.stat().st_size}


def weights_record(weights: Mapping[str, Path]) -> dict[str, dict[str, str]]:
    """Return the name and SHA-256 of each network's file; OSError if it cannot be read."""
    return {module: {"file": path.name, "sha256": known_sha256(path)} for module, path in weights.items()}


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes; OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def known_sha256(path: Path) -> str:
    """Like `sha256`, but computed once per process while a file keeps its path, size and modification time."""
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


@functools.cache
def _sha256(path: Path, size: int, changed: int) -> str:
    return sha256(path)
