"""Directories of TIFF and EXIF: check that their values lie in the file, before Pillow reads them.

A directory of n entries may point n times at the same bytes. Read without a check, a file of 1 MB takes 50 GB.
"""

import mmap
import struct
from collections.abc import Iterator

from PIL import ExifTags

from diffbir_jax.files.errors import ImageFileError

# Bytes per number of TIFF's types, from 1; 13 and 16 to 18 are of later versions.
_SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_INNER = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo, ExifTags.IFD.Interop)
# Inner directories point at others; EXIF has three of them.
_MOST = 8


def check_directories(data: bytes | mmap.mmap, at: int | None = None) -> None:
    """Check a directory of a TIFF structure, and the directories of EXIF within it.

    Args:
        data: a TIFF file, or EXIF without its name.
        at: where the directory lies; by default that of the first.

    Raises:
        ImageFileError: the values of the directories are more bytes than there are.
    """
    order = "<" if data[:2] == b"II" else ">"
    # Offsets have 8 bytes in BigTIFF.
    wide = 8 if data[2:4] in (b"+\0", b"\0+") else 4
    waiting, seen, total = [_number(data, order, wide, wide) if at is None else at], 0, 0
    while waiting and seen < _MOST:
        for tag, size, value in _entries(data, waiting.pop(), order, wide):
            # Up to `wide` bytes lie in the entry itself.
            total += size * (size > wide)
            if tag in _INNER:
                waiting.append(value)
        seen += 1
    if total > len(data):
        raise ImageFileError("is damaged: its tags are longer than the file; copy or download it again")


def _entries(data: bytes | mmap.mmap, at: int, order: str, wide: int) -> Iterator[tuple[int, int, int]]:
    """Yield each entry of a directory: tag, size of its values in bytes, and the value or where it lies."""
    head, width = (8, 20) if wide == 8 else (2, 12)
    count = _number(data, order, at, head)
    for begin in range(at + head, min(at + head + width * count, len(data) - width + 1), width):
        tag, kind = struct.unpack_from(f"{order}HH", data, begin)
        values = _number(data, order, begin + 4, wide)
        yield tag, values * _SIZES.get(kind, 1), _number(data, order, begin + 4 + wide, wide)


def _number(data: bytes | mmap.mmap, order: str, at: int, size: int) -> int:
    """Return an unsigned number; 0 beyond the end."""
    return int.from_bytes(data[at : at + size], "little" if order == "<" else "big")
