"""A folder in a bucket, or in any other file system of fsspec: its files, downloads, and uploads that appear whole.

Credentials and other settings come from fsspec's configuration files and `FSSPEC_...` variables. Only the extra
[buckets] has fsspec, so programs import this module when somebody names a URL.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from fsspec.core import url_to_fs

from diffbir_jax.files.errors import ImageFileError, reason

# Protocols whose uploads appear at their end, whole. Elsewhere a file is renamed once it is whole.
_WHOLE = {"abfs", "abfss", "adl", "az", "gcs", "gs", "memory", "oci", "oss", "r2", "s3", "s3a"}


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Turn any error into an ImageFileError of one line that begins with `what`: each file system has its own types."""
    try:
        yield
    except (ImageFileError, MemoryError):
        raise
    except Exception as error:
        raise ImageFileError(f"{what} ({reason(error)}); check the address and the access to it") from None


class Remote:
    """A folder of a file system of fsspec. Threads may share it."""

    def __init__(self, url: str):
        """Take the folder's URL; ImageFileError for an unknown protocol or one whose package is missing."""
        self.url = url.rstrip("/")
        with told(f"{url}: cannot be opened"):
            self._system, path = url_to_fs(url)
        self._root = path.rstrip("/")
        known = self._system.protocol
        self._whole = bool(_WHOLE & ({known} if isinstance(known, str) else {*known}))

    def is_file(self) -> bool:
        """Whether it is no folder but a file; ImageFileError if the file system does not answer."""
        with told(f"{self.url}: cannot be read"):
            return self._system.isfile(self._root)

    def sizes(self) -> dict[str, int | None]:
        """Return the bytes of every file below, by name, None where unknown; {} if there is no such folder.

        Raises:
            ImageFileError: it cannot be listed.
        """
        with told(f"{self.url}: cannot be listed"):
            self._system.invalidate_cache()
            try:
                found = self._system.find(self._root, detail=True)
            except FileNotFoundError:
                return {}
        names = {path.removeprefix(f"{self._root}/"): entry for path, entry in found.items()}
        return {name: entry.get("size") for name, entry in names.items()}

    def size(self, name: str) -> int | None:
        """Return the bytes of a file, if the file system tells; ImageFileError if it cannot be read."""
        with told(f"{self._named(name)}: cannot be read"):
            return self._system.info(self._path(name)).get("size")

    def fetch(self, name: str, file: Path, size: int | None) -> None:
        """Download a file of `size` bytes, if known; ImageFileError if it cannot be read, or is not as long."""
        with told(f"{self._named(name)}: cannot be read"):
            file.parent.mkdir(parents=True, exist_ok=True)
            self._system.get_file(self._path(name), str(file))
            if size not in (None, file.stat().st_size):
                raise OSError(f"{file.stat().st_size} of {size} bytes arrived")

    def read(self, name: str) -> bytes:
        """Return the content of a file; ImageFileError if it cannot be read."""
        with told(f"{self._named(name)}: cannot be read"):
            return self._system.cat_file(self._path(name))

    def send(self, file: Path, name: str) -> None:
        """Upload a file. Readers see the old one or the whole new one; ImageFileError if it cannot be written."""
        self._put(name, lambda path: self._system.put_file(str(file), path))

    def write(self, data: bytes, name: str) -> None:
        """Write a file of these bytes; see `send`."""
        self._put(name, lambda path: self._system.pipe_file(path, data))

    def remove(self, name: str) -> None:
        """Remove a file; ImageFileError if it cannot be removed."""
        with told(f"{self._named(name)}: cannot be removed"):
            self._system.rm_file(self._path(name))

    def _put(self, name: str, put: Callable[[str], object]) -> None:
        path = self._path(name)
        with told(f"{self._named(name)}: cannot be written"):
            if self._whole:
                put(path)
                return
            folder, _, last = path.rpartition("/")
            self._system.makedirs(folder, exist_ok=True)
            # A name that stays the same: the next run writes over what a killed one left.
            unfinished = f"{folder}/.{last}.tmp"
            put(unfinished)
            self._rename(unfinished, path)

    def _rename(self, unfinished: str, path: str) -> None:
        try:
            self._system.mv(unfinished, path)
        except Exception:
            # Some file systems, such as HDFS, rename to no name that is taken.
            if not self._system.exists(path):
                raise
            self._system.rm_file(path)
            self._system.mv(unfinished, path)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _named(self, name: str) -> str:
        return f"{self.url}/{name}"
