"""Read image files."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

import numpy as np

from diffbir_jax.files.errors import ImageFileError, absent
from diffbir_jax.imaging.decoding import FORMATS, HEAD, Decoded, check_most, decode, kind_of
from diffbir_jax.imaging.headers import size_in
from diffbir_jax.imaging.photo import MAX_PIXELS, Photo
from diffbir_jax.imaging.samples import apart

EMPTY = "is empty (0 bytes); copy or download it again"
# How long a file may be: for metadata, previews and further images, and for each pixel that is allowed.
ROOM, MOST_BYTES = 64 << 20, 64
NO_IMAGE = f"is not a {FORMATS} image; convert it to one of these"


def read_photo(path: str | os.PathLike, max_pixels: int = MAX_PIXELS) -> Photo:
    """Read a PNG, JPEG, WebP, AVIF, GIF, TIFF or BMP file. Its content decides the format, not its suffix.

    With the extra [formats] also HEIC, JPEG XL and raw files of cameras. 16-bit gray and RGB stay in 16 bits, and so do
    floats, wide integers and raw files; everything else becomes 8 bits. Gray, palettes, YCbCr, CMYK (by its profile, if
    it has one) and LAB become RGB. Floats are in 0 to 1, integers in 0 to 255 or 65535; if there are larger ones, the
    largest is white. The EXIF orientation is applied. Alpha is kept, and fully transparent pixels get the colour of the
    nearest visible pixel. An animation or a file of several pages gives its first image.

    Args:
        path: the file.
        max_pixels: largest number of pixels in the file's header. It also limits the file to 64 bytes per pixel and
            64 MiB beyond that.

    Returns:
        The photo, both sides at least 16. Its metadata are the parts that still hold (`metadata.carried`).

    Raises:
        ImageFileError: the file is missing, a folder, empty, no image of these formats, damaged, cut off, too small or
            too large.
    """
    path = Path(path)
    kind, data = _load(path, max_pixels)
    try:
        return _photo(_decoded(data, kind, max_pixels))
    except ImageFileError as error:
        raise ImageFileError(f"{path}: {error}") from None


def photo_of(data: bytes, max_pixels: int = MAX_PIXELS) -> Photo:
    """Like `read_photo`, for the bytes of a file; the messages of errors have no path."""
    if not data:
        raise ImageFileError(EMPTY)
    kind = kind_of(data[:HEAD])
    if kind is None:
        raise ImageFileError(NO_IMAGE)
    return _photo(_decoded(data, kind, max_pixels))


def _decoded(data: bytes, kind: str, max_pixels: int) -> Decoded:
    """Decode a file; ImageFileError without a path for any damage."""
    try:
        return decode(data, kind, max_pixels)
    except (ImageFileError, MemoryError):
        raise
    # Decoders report damage by many types of errors, depending on the format and the place.
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ImageFileError(f"is damaged or cut off ({reason}); copy or download it again") from None


def read_image(path: str | os.PathLike, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read an image file as 8-bit RGB with transparency over white; for masks and ready-made stages.

    Returns:
        (H, W, 3) uint8, both sides at least 16.

    Raises:
        ImageFileError: as in `read_photo`.
    """
    return to_eight(over_white(read_photo(path, max_pixels)))


def over_white(photo: Photo) -> np.ndarray:
    """Return the pixels (H, W, 3) of a photo on white, in the photo's dtype."""
    if photo.alpha is None:
        return photo.pixels
    white = np.iinfo(photo.pixels.dtype).max
    share = photo.alpha[..., None] / np.float32(white)
    return np.rint(white + share * (photo.pixels - np.float32(white))).astype(photo.pixels.dtype)


def to_eight(samples: np.ndarray) -> np.ndarray:
    """Convert uint8 or uint16 to uint8, rounded."""
    # 65535 = 257 * 255, and adding 128 rounds.
    return samples if samples.dtype == np.uint8 else ((samples + np.uint32(128)) // 257).astype(np.uint8)


def _load(path: Path, max_pixels: int) -> tuple[str, bytes]:
    """Return the format and the bytes of a regular file; ImageFileError if it cannot be read or is no image."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError
        # Opening a pipe would block until something writes to it.
        if not stat.S_ISREG(mode):
            raise ImageFileError(f"{path}: is a device or a pipe; give a file")
        with path.open("rb") as file:
            head = file.read(HEAD)
            if not head:
                raise ImageFileError(f"{path}: {EMPTY}")
            if kind := kind_of(head):
                _check_length(file, kind, path, max_pixels)
                file.seek(0)
                return kind, file.read()
    except ImageFileError:
        raise
    except FileNotFoundError:
        raise ImageFileError(f"{path}: {absent(path, 'no such file; check the path')}") from None
    except IsADirectoryError:
        raise ImageFileError(f"{path}: is a folder; give a file, or list it with find_images") from None
    except PermissionError:
        raise ImageFileError(f"{path}: may not be read; change its permissions") from None
    except (OSError, ValueError) as error:
        raise ImageFileError(f"{path}: cannot be read ({error}); check the path and the disk") from None
    raise ImageFileError(f"{path}: {NO_IMAGE}")


def _check_length(file: BinaryIO, kind: str, path: Path, max_pixels: int) -> None:
    """Raise ImageFileError for a long file that, by its length or its header, has too many pixels; it is not read."""
    length, most = os.fstat(file.fileno()).st_size, ROOM + MOST_BYTES * max_pixels
    if length > most:
        raise ImageFileError(
            f"{path}: is {length} bytes, more than the limit of {most} for {max_pixels} pixels; "
            "check what it is, or raise `max_pixels` if you trust it"
        )
    if length <= ROOM:
        return
    try:
        height, width = size_in(file, kind)
    # Decoding tells what is wrong with the file.
    except Exception:
        return
    try:
        check_most((width, height), max_pixels)
    except ImageFileError as error:
        raise ImageFileError(f"{path}: {error}") from None


def _photo(decoded: Decoded) -> Photo:
    pixels, alpha, grey = apart(decoded.samples)
    return Photo(pixels, alpha, grey, decoded.metadata, decoded.notes)
