"""Read Qt resource archives (`.rcc`), in which Qt programs keep their pictures.

Such a file is a header, a tree of entries, their names and their data; all numbers are big-endian. Formats 1 to 3 can
be read (Qt 4 to 6 write them), uncompressed or compressed by zlib.
"""

import struct
import zlib
from pathlib import Path

MAGIC = b"qres"
COMPRESSED, DIRECTORY, ZSTD = 1, 2, 4
# Bytes of an entry by format: from 2 on, entries hold a time.
_ENTRY = {1: 14, 2: 22, 3: 22}


class RccError(ValueError):
    """The file cannot be read; the message says why."""


class Archive:
    """The files of a resource archive.

    Attributes:
        places: where the data of each file start, and its flags, by path.

    Raises:
        RccError: the data are no such archive, or damaged.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        magic, version, self._tree, self._blobs, self._names = self._unpack(">4s4I", 0)
        if magic != MAGIC:
            raise RccError(f"begins with {magic!r}, not {MAGIC!r}: give a Qt resource file (.rcc)")
        if version not in _ENTRY:
            raise RccError(f"has format {version}; 1 to 3 can be read")
        self._size = _ENTRY[version]
        self.places: dict[str, tuple[int, int]] = {}
        self._walk(0, "", {0})

    def read(self, path: str) -> bytes:
        """Return the content of the file `path`; KeyError if there is none, RccError if it is damaged."""
        offset, flags = self.places[path]
        start = self._blobs + offset
        (length,) = self._unpack(">I", start)
        content = self._data[start + 4 : start + 4 + length]
        if len(content) < length:
            raise RccError(f"{path}: ends after {len(content)} of {length} bytes; fetch the file again")
        if flags & ZSTD:
            raise RccError(f"{path}: is compressed by Zstandard; only zlib can be read")
        return self._inflated(path, content) if flags & COMPRESSED else content

    def _inflated(self, path: str, content: bytes) -> bytes:
        """Undo Qt's compression: the length as it was, then a zlib stream."""
        try:
            inflated = zlib.decompress(content[4:])
        except zlib.error as error:
            raise RccError(f"{path}: cannot be decompressed ({error}); fetch the file again") from error
        if len(inflated) != int.from_bytes(content[:4], "big"):
            raise RccError(f"{path}: decompresses to a wrong length; fetch the file again")
        return inflated

    def _walk(self, index: int, path: str, seen: set[int]) -> None:
        """Note all files below entry `index`; `seen` are the entries met so far, so that no cycle is endless."""
        start = self._tree + index * self._size
        name, flags = self._unpack(">IH", start)
        if index:
            path = f"{path}/{self._name(name)}".lstrip("/")
        if not flags & DIRECTORY:
            self.places[path] = (self._unpack(">I", start + 10)[0], flags)
            return
        count, first = self._unpack(">II", start + 6)
        for child in range(first, first + count):
            if child in seen:
                raise RccError(f"{path or 'its root'}: repeats an entry; fetch the file again")
            seen.add(child)
            self._walk(child, path, seen)

    def _name(self, offset: int) -> str:
        (length,) = self._unpack(">H", self._names + offset)
        start = self._names + offset + 6  # length, then a hash of four bytes
        text = self._data[start : start + 2 * length]
        if len(text) < 2 * length:
            raise RccError("ends within a name; fetch the file again")
        return text.decode("utf-16-be", "replace")

    def _unpack(self, layout: str, offset: int) -> tuple:
        try:
            return struct.unpack_from(layout, self._data, offset)
        except struct.error as error:
            raise RccError(f"ends before byte {offset}; fetch the file again") from error


def read_archive(path: Path) -> Archive:
    """Open the archive at `path`; RccError names it.

    Raises:
        RccError: it is no such archive, or damaged.
        OSError: it cannot be read.
    """
    try:
        return Archive(path.read_bytes())
    except RccError as error:
        raise RccError(f"{path}: {error}") from error
