"""Protection of the weights folder: checksums of first downloads, a check of file types, one download at a time."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffbir_jax.console.errors import UserError
from diffbir_jax.files.writing import replacing

try:
    import fcntl
except ImportError:  # Windows has no fcntl: two downloads at once are not prevented there
    fcntl = None

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


def looks_like_weights(path: Path, name: str) -> bool:
    """Whether a file starts like weights of that name: as .safetensors (length and JSON), or as a zip or a pickle."""
    # Without a published SHA-256, this keeps error pages and login pages out of the record.
    with path.open("rb") as file:
        head = file.read(9)
    if name.endswith(".safetensors"):
        return head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size
    return head.startswith((b"PK", b"\x80"))


@contextmanager
def alone(target: Path) -> Iterator[None]:
    """Prevent other processes from downloading `target`, if the system has file locks.

    Raises:
        OSError: another process is downloading it.
    """
    # flock, not the existence of a file: the system releases it when a process is killed.
    lock = target.with_name(f"{target.name}.lock")
    with lock.open("a") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise OSError(
                    f"{target} is being downloaded by another process, which holds {lock}: wait for it or end it."
                ) from error
            except OSError:  # a file system without locks
                pass
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
