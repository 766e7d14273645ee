"""A photo as the rest of the package handles it, whatever file it came from."""

from dataclasses import dataclass, field

import numpy as np

MIN_SIDE = 16
# Where Pillow, too, takes a file for an attack: 0.5 GB of pixels in 8 bits.
MAX_PIXELS = 178_956_970


@dataclass(frozen=True)
class Metadata:
    """What a file says beside its pixels.

    Attributes:
        exif: a TIFF structure (it begins with II or MM, without JPEG's "Exif" in front), or None.
        xmp: a packet of XML, or None.
        icc: the profile that pixels are to be seen through, or None for sRGB.
        dpi: pixels per inch, horizontally and vertically, as the file says beside EXIF, or None.
    """

    exif: bytes | None = None
    xmp: bytes | None = None
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Photo:
    """An upright image and what its file says about it.

    Attributes:
        pixels: (H, W, 3) uint8 or uint16 RGB over the whole range of the type, in the colours of `metadata.icc`.
        alpha: (H, W) of the same type, 0 where the photo is transparent, or None.
        grey: the file held no colour, and its channels are equal.
        metadata: what goes along into the file of the result.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    grey: bool = False
    metadata: Metadata = field(default_factory=Metadata)
