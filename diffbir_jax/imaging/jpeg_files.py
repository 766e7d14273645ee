"""JPEG files: decoding that notices damage. Pillow ignores what its decoder warns of, and fills the rest with gray."""

import re

import numpy as np
import simplejpeg

from diffbir_jax.files.errors import ImageFileError

# Pillow's modes for which this decodes to the same samples; Adobe's CMYK is inverted, which Pillow knows.
_COLOURS = {"L": "GRAY", "RGB": "RGB"}
# Warnings of libjpeg after which pixels are missing or wrong.
_LOSSES = re.compile(r"[Pp]remature end|bad Huffman|bad arithmetic|instead of RST|Inconsistent progression")
# Its other warnings, such as superfluous bytes before a marker, which some webcams write.
_WARNING = re.compile(r"Corrupt JPEG data|Invalid SOS")
# It reads these before the pixels, and stops there.
_METADATA = re.compile(r"bad ICC marker|Unknown Adobe|unknown JFIF")
_APPLICATIONS, _ADOBE, _SCAN = range(0xE0, 0xF0), 0xEE, 0xDA


def decode_jpeg(data: bytes, mode: str) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Decode a JPEG file.

    Args:
        data: the file.
        mode: Pillow's mode for it.

    Returns:
        (H, W, 1 or 3) uint8, or None if Pillow has to decode it; and notes, see `decoding.Decoded`.

    Raises:
        ImageFileError: the pixels are damaged.
    """
    colours = _COLOURS.get(mode)
    samples, problem = _decoded(data, colours or "GRAY")
    notes = ()
    if _METADATA.search(problem):
        notes, data = (f"has damaged metadata ({problem})",), _without_metadata(data)
        samples, problem = _decoded(data, colours or "GRAY")
    _refuse_losses(problem)
    if _WARNING.search(problem):
        notes = (*notes, f"is slightly damaged, but has all pixels ({problem})")
        samples = simplejpeg.decode_jpeg(data, colours, strict=False) if colours else None
    return (samples if colours else None), notes


def check_pixels(data: bytes, most: int) -> None:
    """Raise ImageFileError if a JPEG file, such as a piece of TIFF, has damaged pixels, or more than `most`."""
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data, strict=False)
    except ValueError:  # of a kind that other decoders know, or not
        return
    if int(height) * int(width) > most:
        raise ImageFileError("is damaged: it holds more pixels than it says; copy or download it again")
    _refuse_losses(_decoded(data, "GRAY")[1])


def _refuse_losses(problem: str) -> None:
    if _LOSSES.search(problem):
        raise ImageFileError(f"is damaged ({problem}); copy or download it again")


def _decoded(data: bytes, colours: str) -> tuple[np.ndarray | None, str]:
    """Return the samples if the decoder has nothing to say, else None and what it says."""
    try:
        return simplejpeg.decode_jpeg(data, colours), ""
    except ValueError as error:
        return None, str(error)


def _without_metadata(data: bytes) -> bytes:
    """Return a JPEG file without the segments of applications, except Adobe's that says whether colours are RGB."""
    parts, at = [data[:2]], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != _SCAN:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        segment = data[at:end]
        plain = data[at + 1] == _ADOBE and segment[4:9] == b"Adobe" and segment[-1] <= 1
        if data[at + 1] not in _APPLICATIONS or plain:
            parts.append(segment)
        at = end
    return b"".join([*parts, data[at:]])
