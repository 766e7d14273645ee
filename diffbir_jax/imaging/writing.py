"""Write image files. A path always holds the old file or the complete new one."""

import functools
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from diffbir_jax.console.errors import UserError
from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.files.writing import replace_file
from diffbir_jax.imaging.encoding import encode_jpeg, encode_png, encode_tiff, encode_webp
from diffbir_jax.imaging.metadata import colour_space, reduced
from diffbir_jax.imaging.photo import Metadata, Photo
from diffbir_jax.imaging.reading import over_white, to_eight

OUTPUT_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
# The longest side. libjpeg allows a little less than the format's 65535.
_LONGEST = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383}
# Weights of red, green and blue in brightness (ITU-R BT.601), as in Pillow and JPEG.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def check_output(path: str | os.PathLike, height: int, width: int) -> None:
    """Raise ImageFileError unless an image of this size can be written in the format of the suffix.

    `write_photo` checks this first. Callers may check it before they compute the image.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in OUTPUT_SUFFIXES:
        raise ImageFileError(
            f"{path}: names no format that can be written; end it in one of {', '.join(OUTPUT_SUFFIXES)}"
        )
    longest = _LONGEST.get(suffix)
    if longest and max(height, width) > longest:
        raise ImageFileError(
            f"{path}: {width}x{height} pixels are more than {suffix[1:]} allows ({longest} a side); "
            "write .png or .tif, or a smaller image"
        )


def write_photo(path: str | os.PathLike, photo: Photo, *, quality: int = 95) -> tuple[str, ...]:
    """Write a photo in the format of the suffix: PNG, JPEG, WebP or TIFF.

    PNG and TIFF keep 16 bits; JPEG and WebP round to 8. A grey photo is written as gray (its brightness), except in
    WebP, which has no gray. JPEG puts alpha over white; the other formats keep it. EXIF, XMP and the ICC profile are
    written too, but not a profile for other colours than those of the file (RGB for gray). Metadata that the format
    cannot hold, such as long XMP in JPEG, are left out: the pixels are worth more.

    Args:
        path: the file; its folder is made if missing.
        photo: as `read_photo` returns it; its metadata must fit it.
        quality: quality of JPEG and WebP, 1 to 100; PNG and TIFF are lossless.

    Returns:
        What was left out, as texts that go on from the file's name.

    Raises:
        TypeError: pixels that are neither uint8 nor uint16, or alpha of another type.
        ValueError: wrong shapes, or a quality out of range.
        ImageFileError: another suffix, more pixels than the format allows, or the file cannot be written.
    """
    path, suffix = Path(path), Path(path).suffix.lower()
    _check(photo, quality)
    check_output(path, *photo.pixels.shape[:2])
    try:
        data, notes = encode_photo(photo, suffix, quality=quality)
    except ImageFileError as error:
        raise ImageFileError(f"{path}: {error}") from None
    replace_file(path, data)
    return notes


def encode_photo(photo: Photo, suffix: str, *, quality: int = 95) -> tuple[bytes, tuple[str, ...]]:
    """Return the file that `write_photo` writes for a suffix of `OUTPUT_SUFFIXES`, and what was left out of it.

    Raises:
        TypeError, ValueError: as in `write_photo`.
        ImageFileError: it cannot be encoded; the message has no path.
    """
    _check(photo, quality)
    jpeg, webp = suffix in (".jpg", ".jpeg"), suffix == ".webp"
    samples = _samples(photo, grey=photo.grey and not webp, opaque=jpeg)
    metadata = _fitting(photo.metadata, samples.shape[2])
    if jpeg or webp:
        samples = to_eight(samples)
        encode = functools.partial(encode_jpeg if jpeg else encode_webp, quality=quality)
    else:
        encode = encode_png if suffix == ".png" else encode_tiff
    data, left_out = _encoded(encode, samples, metadata)
    kind = suffix[1:]
    return data, (
        f"is written without {left_out}, which {kind} cannot hold, or not as much of it",
    ) if left_out else ()


def _encoded(
    encode: Callable[[np.ndarray, Metadata], bytes], samples: np.ndarray, metadata: Metadata
) -> tuple[bytes, str]:
    """Return a file with as much of the metadata as it can hold, and what was left out."""
    problem: Exception | None = None
    for left_out, less in reduced(metadata):
        try:
            return encode(samples, less), left_out
        except MemoryError:
            raise
        # Damaged metadata cause many types of errors, wherever they are taken apart.
        except Exception as error:
            problem = problem or error
    raise problem if isinstance(problem, ImageFileError) else ImageFileError(f"cannot be encoded ({problem})")


def write_png(path: str | os.PathLike, image: np.ndarray) -> None:
    """Write an array as a PNG file.

    Args:
        path: the file; its folder is made if missing.
        image: (H, W, 3) or (H, W), uint8 or uint16.

    Raises:
        TypeError: the image has another dtype.
        ImageFileError: the file cannot be written.
    """
    if image.dtype not in (np.uint8, np.uint16):
        raise TypeError(f"image has dtype {image.dtype}; write_png takes uint8 or uint16, black to white")
    replace_file(Path(path), encode_png(image if image.ndim == 3 else image[..., None], Metadata()))


def _check(photo: Photo, quality: int) -> None:
    pixels, alpha = photo.pixels, photo.alpha
    if pixels.dtype not in (np.uint8, np.uint16) or (alpha is not None and alpha.dtype != pixels.dtype):
        given = pixels.dtype if alpha is None else f"{pixels.dtype} with alpha {alpha.dtype}"
        raise TypeError(f"the photo has dtype {given}; give uint8 or uint16, the same for both")
    if pixels.shape[2:] != (3,) or (alpha is not None and alpha.shape != pixels.shape[:2]):
        given = pixels.shape if alpha is None else f"{pixels.shape} with alpha {alpha.shape}"
        raise ValueError(f"the photo has shape {given}; give (H, W, 3), and (H, W) for alpha")
    if not 1 <= quality <= 100:
        raise UserError(f"quality is {quality}; allowed are 1 to 100, and 95 loses little")


def _samples(photo: Photo, grey: bool, opaque: bool) -> np.ndarray:
    """Return the samples to write: (H, W, C) of the photo's dtype, C as in `encode_png`."""
    colours = over_white(photo) if opaque else photo.pixels
    if grey:
        colours = np.rint(colours @ _LUMA).astype(colours.dtype)[..., None]
    if opaque or photo.alpha is None:
        return colours
    return np.concatenate([colours, photo.alpha[..., None]], axis=2)


def _fitting(metadata: Metadata, channels: int) -> Metadata:
    """Leave out a profile that does not fit this number of channels."""
    space = "RGB" if channels > 2 else "GRAY"
    return metadata if colour_space(metadata.icc) == space else replace(metadata, icc=None)
