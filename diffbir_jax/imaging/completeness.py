"""Check that a file holds its whole image. Decoders accept incomplete files and fill the rest with gray or black."""

import re
import struct
import zlib
from collections.abc import Callable, Iterator

from diffbir_jax.files.errors import ImageFileError

CUT_OFF = "is cut off; copy or download it again"
DAMAGED = "is damaged; copy or download it again"
_STEP = 1 << 20
# Markers of JPEG, except stuffed bytes and the restarts within the pixels. Before the code there may be any number of
# 0xff; a pattern that repeats them would look at each of them again and again.
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)
_SCAN, _END = b"\xda", b"\xd9"
# Zeros that compressed pixels may end in.
_MOST_ZEROS = 16
# Each scan of a progressive JPEG visits the whole image; encoders make about ten.
_MOST_SCANS = 100
# The passes of interlaced PNG: first row, first column, row step, column step.
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
# What decoding needs beside the chunks that must be known (their names begin with a capital).
_KEPT = (b"tRNS", b"eXIf", b"pHYs")
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def check_complete(data: bytes, kind: str) -> None:
    """Raise ImageFileError (or struct.error) if a file of this format is cut off or detectably damaged."""
    if check := _CHECKS.get(kind):
        check(data)


def check_end(data: bytes, kind: str, exif: bytes) -> None:
    """Raise ImageFileError if the pixels end in zeros, as an interrupted copy or download leaves them.

    Decoders of WebP, AVIF and HEIC take zeros for pixels.

    Args:
        data: the file.
        kind: see `decoding.kind_of`.
        exif: its EXIF, which may be the last part, and end in zeros by itself.
    """
    if find := _ENDS.get(kind):
        most, end = max(_MOST_ZEROS, _zeros(exif)), find(data)
        if end > most and not any(data[end - most - 1 : end]):
            raise ImageFileError(
                "is damaged: it ends in zeros, as a copy that was interrupted; copy it again"
            )


def _zeros(data: bytes) -> int:
    """Return how many zeros are at the end."""
    return len(data) - len(data.rstrip(b"\0"))


def _end_of_webp(data: bytes) -> int:
    """Return the place behind the first image."""
    at = 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        if kind in (b"VP8 ", b"VP8L", b"ANMF"):
            return at + 8 + length
        at += 8 + length + length % 2
    return len(data)


def _end_of_media(data: bytes) -> int:
    """Return the place behind the last box of pixels in a file of boxes, such as AVIF."""
    at, last = 0, len(data)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if length == 1 and at + 16 <= len(data):
            length = int.from_bytes(data[at + 8 : at + 16], "big")
        end = at + length if length >= 8 else len(data)
        last = end if kind == b"mdat" else last
        at = end
    return last


def inflated_length(deflated: bytes, most: int) -> int:
    """Return the number of bytes in a deflated stream. The output is discarded in pieces, to save memory.

    Args:
        deflated: the stream.
        most: how many bytes it may have: a stream inflates up to thousandfold.

    Raises:
        ImageFileError: it has no end or more bytes, or its checksum is wrong.
    """
    stream, length = zlib.decompressobj(), 0
    try:
        while deflated:
            length += len(stream.decompress(deflated, _STEP))
            deflated = stream.unconsumed_tail
            if length > most:
                raise ImageFileError(
                    "is damaged: it holds more pixels than it says; copy or download it again"
                )
    except zlib.error:
        raise ImageFileError(DAMAGED) from None
    if not stream.eof:
        raise ImageFileError(DAMAGED)
    return length


def _check_png(data: bytes) -> None:
    """Check all chunks' checksums, the end chunk, and the number of rows against the header, which comes first."""
    if data[12:16] != b"IHDR":
        raise ImageFileError("is damaged: it does not begin with its header; copy or download it again")
    pixels = b"".join(piece for kind, piece in _png_chunks(data) if kind == b"IDAT")
    length = _png_length(data[16:29])
    # Some encoders write a little too much.
    if inflated_length(pixels, 2 * length + _STEP) < length:
        raise ImageFileError("is damaged: it has fewer rows than it says; copy or download it again")


def png_without_metadata(data: bytes) -> bytes:
    """Return a PNG with only the chunks that its pixels need, and those of orientation and resolution.

    Raises:
        ImageFileError: it is cut off, or a checksum is wrong.
    """
    chunks = [*_png_chunks(data), (b"IEND", b"")]
    kept = (kind + body for kind, body in chunks if kind[:1].isupper() or kind in _KEPT)
    return data[:8] + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in kept
    )


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            break
        if zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise ImageFileError("is damaged (a checksum is wrong); copy or download it again")
        if kind == b"IEND":
            return
        yield kind, data[at + 8 : end]
        at = end + 4
    raise ImageFileError(CUT_OFF)


def _png_length(header: bytes) -> int:
    """Return the number of bytes of the filtered rows."""
    width, height, bits, colours, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sizes = ((-((y - height) // dy), -((x - width) // dx)) for y, x, dy, dx in passes)
    return sum(
        rows * (1 + (columns * bits * _CHANNELS[colours] + 7) // 8) for rows, columns in sizes if columns
    )


def _check_jpeg(data: bytes) -> None:
    """Walk over the segments to the end marker; this skips thumbnails, which have their own end markers."""
    at, scans = 2, 0
    while found := _MARKER.search(data, at):
        if found[1] == _END:
            return
        scans += found[1] == _SCAN
        if scans > _MOST_SCANS:
            raise ImageFileError(f"has more than {_MOST_SCANS} scans, as no camera makes; save it again")
        at = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    raise ImageFileError(CUT_OFF)


def _check_webp(data: bytes) -> None:
    if len(data) < 8 + int.from_bytes(data[4:8], "little"):
        raise ImageFileError(CUT_OFF)


# BMP needs no check, because Pillow counts its bytes. For TIFF see `tiff.check_complete`.
_CHECKS: dict[str, Callable[[bytes], None]] = {"PNG": _check_png, "JPEG": _check_jpeg, "WEBP": _check_webp}
_ENDS: dict[str, Callable[[bytes], int]] = {
    "WEBP": _end_of_webp,
    "AVIF": _end_of_media,
    "HEIF": _end_of_media,
}
