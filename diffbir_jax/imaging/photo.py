"""The package's type for a photo from a file of any format."""

from dataclasses import dataclass, field

import numpy as np

MIN_SIDE = 16
# Pillow also treats larger files as a possible attack. This many pixels take 0.5 GB in 8 bits.
MAX_PIXELS = 178_956_970
# EXIF's orientations that exchange height and width.
LYING = (5, 6, 7, 8)


@dataclass(frozen=True)
class Metadata:
    """The metadata of a file.

    Attributes:
        exif: a TIFF structure (starting with II or MM, without JPEG's "Exif" prefix), or None.
        xmp: a packet of XML, or None.
        icc: the colour profile of the pixels, or None for sRGB.
        dpi: pixels per inch, horizontally and vertically, as the file says beside EXIF, or None.
    """

    exif: bytes | None = None
    xmp: bytes | None = None
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Photo:
    """An upright image and its metadata.

    Attributes:
        pixels: (H, W, 3) uint8 or uint16 RGB over the whole range of the type, in the colours of `metadata.icc`.
        alpha: (H, W) of the same type, 0 for transparent pixels, or None.
        grey: True if the file has no colour; then the three channels are equal.
        metadata: metadata for the file of the result.
        notes: what a user should know of how the file was read; each goes on from the file's name.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    grey: bool = False
    metadata: Metadata = field(default_factory=Metadata)
    notes: tuple[str, ...] = ()
