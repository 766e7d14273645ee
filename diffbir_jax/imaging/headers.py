"""The size of an image from its header, without decoding it."""

import stat
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from diffbir_jax.imaging.decoding import undisturbed

# EXIF's orientations that exchange height and width.
_LYING = (5, 6, 7, 8)
# Deflate makes data at most this many times as small.
_DEFLATED = 1032


def header_size(path: Path) -> tuple[int, int]:
    """Return height and width of an image file as it will be decoded, upright.

    Raises:
        OSError, ValueError: it is no regular file, no image, or too short for the pixels that its header tells of.
        Exception: almost anything else, if it is damaged.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise UnidentifiedImageError("no regular file")
    with undisturbed, Image.open(path) as image:
        if image.width * image.height > _most_pixels(image, found.st_size):
            raise UnidentifiedImageError("shorter than its pixels")
        lying = image.getexif().get(0x0112) in _LYING
        return (image.width, image.height) if lying else (image.height, image.width)


def _most_pixels(image: Image.Image, size: int) -> float:
    """How many pixels a file of this many bytes can hold; of formats without such a bound, any number."""
    if image.format == "BMP" and image.info.get("compression") == 0:
        return 8 * size
    return 8 * _DEFLATED * size if image.format == "PNG" else float("inf")
