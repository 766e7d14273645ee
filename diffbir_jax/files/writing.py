"""Writing files so that readers never see a partial file."""

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from diffbir_jax.files.errors import ImageFileError


@contextlib.contextmanager
def replacing(path: Path, temporary: Path | None = None) -> Iterator[BinaryIO]:
    """Open a new file, which takes the place of `path` when the block ends without an error, and vanishes otherwise.

    After the block it is on the disk, flushed.

    Args:
        path: the file; its folder is made if missing.
        temporary: the new file until then, in the same folder. A name that stays the same lets the next run write over
            what a killed one left. By default each thread has one of its own, for one file at a time.

    Raises:
        OSError: it cannot be written.
    """
    temporary = temporary or _unfinished(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("wb") as file:
            yield file
            # On the disk before its name is: a loss of power leaves the old file or the whole new one.
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _flush_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _unfinished(path: Path) -> Path:
    """The file that this thread writes in place of `path` until it is whole."""
    # Short, since a path may be as long as the system allows; hidden, so that no listing shows it.
    return path.with_name(f".{os.getpid()}-{threading.get_ident()}.tmp")


def check_length(path: Path, instead: str, temporary: Path | None = None) -> None:
    """Check that the file system takes the names of a file to write, because that shows only after it is computed.

    Args:
        path: the file. Its folder need not exist.
        instead: what to do, such as "give a shorter --name".
        temporary: as for `replacing`.

    Raises:
        ImageFileError: the file, the one in its place until it is whole, or a folder to make has too long a name.
    """
    folders = [path.parent, *path.parent.parents]
    new = [folder for folder in folders if not os.path.lexists(folder)]
    nearest = next((folder for folder in folders if os.path.lexists(folder)), Path())
    for each in (path, temporary or _unfinished(path), *new):
        # The whole path, and its name alone: systems say nothing of a name in a folder that is not there.
        if _too_long(each) or _too_long(nearest / each.name):
            raise ImageFileError(
                f"{path}: this name, or one that belongs to it, is too long for the file system; {instead}"
            )


def _too_long(path: Path) -> bool:
    try:
        os.lstat(path)
    except OSError as error:
        return error.errno == errno.ENAMETOOLONG
    except ValueError:  # a NUL, with which no file has a name
        pass
    return False


def _flush_folder(folder: Path) -> None:
    """Have the names of a folder on the disk. Some systems and network drives cannot."""
    with contextlib.suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file; readers of `path` see the old file or the new one, never a partial file.

    Raises:
        ImageFileError: it cannot be written.
    """
    try:
        with replacing(path) as file:
            file.write(data)
    except OSError as error:
        reason = error.strerror or error
        raise ImageFileError(f"{path}: cannot be written ({reason}); choose another output folder") from None
