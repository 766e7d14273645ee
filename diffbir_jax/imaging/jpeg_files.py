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
_WARNING = re.compile(r"Corrupt JPEG data|Invalid SOS|Unknown Adobe|unknown JFIF")


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
    if _LOSSES.search(problem):
        raise ImageFileError(f"is damaged ({problem}); copy or download it again")
    notes = (f"is slightly damaged, but has all pixels ({problem})",) if _WARNING.search(problem) else ()
    if notes and colours:
        samples = simplejpeg.decode_jpeg(data, colours, strict=False)
    return (samples if colours else None), notes


def _decoded(data: bytes, colours: str) -> tuple[np.ndarray | None, str]:
    """Return the samples if the decoder has nothing to say, else None and what it says."""
    try:
        return simplejpeg.decode_jpeg(data, colours), ""
    except ValueError as error:
        return None, str(error)
