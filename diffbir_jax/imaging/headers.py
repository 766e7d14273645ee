"""The size of an image from its header, without decoding it."""

import contextlib
import io
import mmap
import stat
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from diffbir_jax.imaging import jxl, tiff
from diffbir_jax.imaging.completeness import png_without_metadata
from diffbir_jax.imaging.decoding import HEAD, kind_of, opened_raw, register, undisturbed
from diffbir_jax.imaging.directories import check_directories
from diffbir_jax.imaging.metadata import image_tags, orientation_of, parse_exif
from diffbir_jax.imaging.photo import LYING

# Deflate makes data at most this many times as small.
_DEFLATED = 1032
# Pixels per byte that BMP can hold, by its compression: none (1 bit each), runs of at most 255 pixels in two bytes.
# Runs may also jump over rows, but no program writes photos in that way.
_IN_BMP = {0: 8, 1: 128, 2: 128}


def header_size(path: Path) -> tuple[int, int]:
    """Return height and width of an image file as it will be decoded, upright. Its content decides the format.

    Raises:
        ImageFileError: a package that reads its format is missing.
        OSError, ValueError: it is no regular file, no image, or too short for the pixels that its header tells of.
        Exception: almost anything else, if it is damaged.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise UnidentifiedImageError("no regular file")
    with path.open("rb") as file:
        kind = kind_of(file.read(HEAD))
        if kind is None:
            raise UnidentifiedImageError("no image")
        return size_in(file, kind)


def size_in(file: BinaryIO, kind: str) -> tuple[int, int]:
    """Like `header_size`, for an open file whose format is known, see `decoding.kind_of`."""
    file.seek(0)
    with undisturbed:
        width, height, orientation = _SIZES.get(kind, _by_pillow)(file, kind)
    if min(width, height) < 1:
        raise UnidentifiedImageError("no pixels")
    return (width, height) if orientation in LYING else (height, width)


def _by_pillow(file: BinaryIO, kind: str) -> tuple[int, int, int]:
    """Return width, height and EXIF's orientation of a file that Pillow opens without decoding it."""
    register(kind)
    length = file.seek(0, 2)
    file.seek(0)
    with Image.open(file, formats=[kind]) as image:
        if image.width * image.height > _most_pixels(image, length):
            raise UnidentifiedImageError("shorter than its pixels")
        return *image.size, orientation_of(image_tags(image))


def _of_png(file: BinaryIO, kind: str) -> tuple[int, int, int]:
    """As decoding, without the metadata that Pillow refuses."""
    try:
        return _by_pillow(file, kind)
    except Exception:
        file.seek(0)
        return _by_pillow(io.BytesIO(png_without_metadata(file.read())), kind)


def _most_pixels(image: Image.Image, length: int) -> float:
    """How many pixels a file of this many bytes can hold; of formats without such a bound, any number."""
    if image.format == "BMP":
        return _IN_BMP.get(image.info.get("compression", 0), 1) * length
    return 8 * _DEFLATED * length if image.format == "PNG" else float("inf")


def _of_jxl(file: BinaryIO, kind: str) -> tuple[int, int, int]:
    header, exif = jxl.read_header(file), jxl.read_exif(file)
    # With an orientation in the codestream, these sides are those after turning.
    if exif is None or header.orientation != 1:
        return header.width, header.height, 1
    return header.width, header.height, _orientation(exif)


def _orientation(exif: bytes) -> int:
    """Return EXIF's orientation; 1 if it is too damaged to be read, as in `image_tags`."""
    with contextlib.suppress(Exception):
        check_directories(exif)
        return orientation_of(parse_exif(exif))
    return 1


def _of_tiff(file: BinaryIO, kind: str) -> tuple[int, int, int]:
    """Look at the first directory, but not at the whole file, which may be large."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        tags = tiff.first_directory(data)
        if tiff.is_raw(tags, data):
            return _of_raw(file, kind)
        found = tiff.layout(tags)
        return found.width, found.height, found.orientation


def _of_raw(file: BinaryIO, kind: str) -> tuple[int, int, int]:
    file.seek(0)
    with opened_raw(file) as raw:
        # LibRaw's numbers of turns are three of EXIF's, but for a half turn.
        return raw.sizes.width, raw.sizes.height, raw.sizes.flip


_SIZES = {"JXL": _of_jxl, "PNG": _of_png, "TIFF": _of_tiff, "RAW": _of_raw}
