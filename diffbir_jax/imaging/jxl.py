"""The size of a JPEG XL image from its header (ISO/IEC 18181). Pillow's plug-in knows it only after decoding."""

import io
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from diffbir_jax.imaging.photo import LYING

_DAMAGED = "no header of JPEG XL"
_NAKED = b"\xff\x0a"
# The mark, two sides of 32 bits, and the orientation take 13 bytes at most.
_NEEDED = 16
_TIFF = (b"II*\0", b"MM\0*")
# Boxes to look at. Metadata may come first, but only a few boxes of it.
_MOST_BOXES, _MOST_EXIF = 1000, 1 << 20
# Bits of a side, by the number before it.
_BITS = (9, 13, 18, 30)
# Width / height by the number that stands in place of a width.
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}


class _Bits:
    """Bits of a header, the lowest of each byte first."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "little"), 8 * len(data)

    def take(self, count: int) -> int:
        if count > self._left:
            raise ValueError(_DAMAGED)
        value = self._value & ((1 << count) - 1)
        self._value, self._left = self._value >> count, self._left - count
        return value


class Header(NamedTuple):
    """What the begin of a codestream says: the sides of the image as it is shown, and how it was turned for that.

    Attributes:
        width, height: in pixels, after decoders have turned the image.
        orientation: EXIF's number; with others than 1 they have done what EXIF asks for.
    """

    width: int
    height: int
    orientation: int


def read_header(file: BinaryIO) -> Header:
    """Return the header of a codestream alone, or of one in a container; nothing is decoded.

    Raises:
        ValueError: the header is damaged or cut off.
    """
    data = _codestream(file)
    if data[:2] != _NAKED:
        raise ValueError(_DAMAGED)
    bits = _Bits(data[2:])
    width, height = _size(bits)
    orientation = _orientation(bits)
    return Header(*((height, width) if orientation in LYING else (width, height)), orientation)


def read_exif(file: BinaryIO) -> bytes | None:
    """Return the EXIF of a container (a TIFF structure), or None; ValueError for damaged boxes."""
    for kind, begin, end in _boxes(file):
        if kind == b"Exif":
            file.seek(begin)
            data = file.read(min(end - begin, _MOST_EXIF))
            # Four bytes say how far behind them the structure begins; Pillow's plug-in leaves them out.
            return data if data[:4] in _TIFF else data[4 + int.from_bytes(data[:4], "big") :]
    return None


def _size(bits: _Bits) -> tuple[int, int]:
    small = bits.take(1)
    height = _side(bits, small)
    if ratio := bits.take(3):
        over, under = _RATIOS[ratio]
        return height * over // under, height
    return _side(bits, small), height


def _side(bits: _Bits, small: int) -> int:
    return 8 * (1 + bits.take(5)) if small else 1 + bits.take(_BITS[bits.take(2)])


def _orientation(bits: _Bits) -> int:
    """Return EXIF's number; the first fields after the size say whether one is stored."""
    default = bits.take(1)
    return 1 + bits.take(3) if not default and bits.take(1) else 1


def _codestream(file: BinaryIO) -> bytes:
    """Return the first bytes of the codestream, which may lie in pieces in the boxes of a container."""
    if _is_naked(file):
        return _NAKED + file.read(_NEEDED)
    found = b""
    for kind, begin, end in _boxes(file):
        if kind in (b"jxlc", b"jxlp"):
            # A piece begins with its number.
            begin += 4 * (kind == b"jxlp")
            file.seek(begin)
            found += file.read(max(0, min(_NEEDED, end - begin)))
        if len(found) >= _NEEDED:
            break
    return found


def _boxes(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yield each box of a container: its name, where its content begins and where it ends."""
    if _is_naked(file):
        return
    at, length = 0, file.seek(0, io.SEEK_END)
    for _ in range(_MOST_BOXES):
        if at + 8 > length:
            return
        file.seek(at)
        size, kind, wide = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
        header = 16 if size == 1 else 8
        # 0: up to the end of the file.
        size = {0: length - at, 1: wide}.get(size, size)
        if size < header:
            raise ValueError(_DAMAGED)
        yield kind, at + header, min(at + size, length)
        at += size


def _is_naked(file: BinaryIO) -> bool:
    file.seek(0)
    return file.read(2) == _NAKED
