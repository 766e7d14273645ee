"""Pictures of callers (Pillow's images, arrays, files): taken apart for the restorer, and put together again."""

import os
import warnings
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from diffbir_jax.console.errors import UserError
from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.imaging.bytes import resize_alpha, to_depth
from diffbir_jax.imaging.canvas import from_depth
from diffbir_jax.imaging.metadata import carried, image_tags, orientation_of
from diffbir_jax.imaging.photo import Metadata, Photo
from diffbir_jax.imaging.reading import over_white, read_photo, to_eight
from diffbir_jax.imaging.samples import apart, from_pillow, upright

if TYPE_CHECKING:
    from typing_extensions import TypeIs

Picture = Image.Image | np.ndarray | str | os.PathLike
Result = Image.Image | np.ndarray


class Taken(NamedTuple):
    """A picture taken apart.

    Attributes:
        pixels: (H, W, 3) RGB, uint8, uint16 or float32 in [0, 1], for the restorer.
        alpha: (H, W) of the same dtype, 0 where the picture is transparent, or None.
        give: makes a picture of the given one's kind from samples (h, w, C) with the dtype of `pixels`. C is that of
            the picture: 1 (gray), 2 (gray and alpha), 3 (RGB) or 4 (RGB and alpha).
        grey: whether the picture holds one channel of colour.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None
    give: Callable[[np.ndarray], Result]
    grey: bool

    def like(self, pixels: np.ndarray, coloured: bool = False) -> Result:
        """A picture like the given one, of restored pixels (h, w, 3): gray stays gray, transparency is resized.

        With `coloured`, gray becomes RGB.
        """
        samples = pixels[..., :1] if self.grey and not coloured else pixels
        if self.alpha is not None:
            alpha = resize_alpha(self.alpha, (pixels.shape[0], pixels.shape[1]))
            samples = np.concatenate([samples, to_depth(from_depth(alpha), samples.dtype)[..., None]], axis=2)
        return self.give(samples)


def seen(taken: Taken) -> Image.Image:
    """Return a picture as people see it: Pillow's upright RGB image of 8 bits, transparency on white, no metadata."""
    alpha = None if taken.alpha is None else _in_bytes(taken.alpha)
    return Image.fromarray(over_white(Photo(_in_bytes(taken.pixels), alpha)))


def _in_bytes(samples: np.ndarray) -> np.ndarray:
    """Samples in 8 bits."""
    return to_depth(samples, np.uint8) if samples.dtype.kind == "f" else to_eight(samples)


def is_one(pictures: Picture | Iterable[Picture]) -> "TypeIs[Picture]":
    """Whether this is one picture, or an object that cannot be restored; False for a collection of pictures."""
    single = isinstance(pictures, (str, bytes, dict)) or hasattr(pictures, "__array__")
    return single or not isinstance(pictures, Iterable)


def noise_index(path: Path) -> int:
    """Return the index of an image's noise. It depends only on the stem: the result is the same alone and in a folder.

    Two files with the same stem in different subfolders share their noise, which does no harm.
    """
    return zlib.crc32(os.fsencode(path.stem))


def index_of(picture: Picture, place: int) -> int:
    """Return the index of a picture's noise: a file's as in the command, else its place in the list."""
    return noise_index(Path(picture)) if isinstance(picture, (str, os.PathLike)) else place


def take(picture: Picture) -> Taken:
    """Take a picture apart.

    Args:
        picture: Pillow's image of any mode; an array (H, W), or (H, W, C) with 1 to 4 channels, uint8, uint16, or
            floats in [0, 1]; or the path of an image file. Two and four channels end with alpha.

    Raises:
        ImageFileError: a file cannot be read; see `read_photo`.
        UserError: an array of another kind, or an object that is no picture.
    """
    if isinstance(picture, Image.Image):
        return _of_pillow(picture)
    if isinstance(picture, (str, os.PathLike)):
        photo = read_photo(picture)
        for note in photo.notes:
            warnings.warn(f"{picture}: {note}", stacklevel=4)
        return _of_photo(photo)
    if hasattr(picture, "__array__"):
        return _of_array(np.asarray(picture))
    raise UserError(
        f"the picture is a {type(picture).__name__}; give Pillow's image, an array (H, W, C) or the path of a file"
    )


def _apart(samples: np.ndarray, give: Callable[[np.ndarray], Result]) -> Taken:
    """The parts of samples (H, W, 1 to 4)."""
    pixels, alpha, grey = apart(samples)
    return Taken(pixels, alpha, give, grey)


def _of_array(array: np.ndarray) -> Taken:
    samples = array[..., None] if array.ndim == 2 else array
    known = array.dtype in (np.uint8, np.uint16) or array.dtype.kind == "f"
    if not known or samples.ndim != 3 or not 1 <= samples.shape[2] <= 4:
        raise UserError(
            f"the picture is {array.dtype} of shape {array.shape}; give (H, W) or (H, W, 1 to 4), uint8, uint16, or "
            "floats in [0, 1]"
        )

    def give(found: np.ndarray) -> np.ndarray:
        found = found[..., 0] if array.ndim == 2 and found.shape[2] == 1 else found
        return found.clip(0, 1).astype(array.dtype) if array.dtype.kind == "f" else found

    return _apart(samples.astype(np.float32) if array.dtype.kind == "f" else samples, give)


def _of_pillow(image: Image.Image) -> Taken:
    try:
        samples, icc = from_pillow(image, image.info.get("icc_profile"))
    except ImageFileError as error:
        raise ImageFileError(f"the picture {error}") from None
    tags = image_tags(image)
    samples = upright(samples, orientation_of(tags))
    metadata = carried(tags, image.info.get("xmp"), icc)
    info = _info(metadata) | ({"dpi": image.info["dpi"]} if "dpi" in image.info else {})
    if image.mode == "F":
        return _apart(samples, lambda found: _pillow(from_depth(found), info))
    if image.mode == "I":
        return _apart(samples, lambda found: _pillow(found.astype(np.int32), info))
    return _apart(samples, lambda found: _pillow(found, info))


def _info(metadata: Metadata) -> dict[str | tuple[int, int], object]:
    """Metadata as Pillow's images have it in `info`."""
    known = {
        "exif": metadata.exif and b"Exif\0\0" + metadata.exif,
        "xmp": metadata.xmp,
        "icc_profile": metadata.icc,
        "dpi": metadata.dpi,
    }
    return {name: value for name, value in known.items() if value}


def _of_photo(photo: Photo) -> Taken:
    info = _info(photo.metadata)

    def give(found: np.ndarray) -> Image.Image:
        deep = found.dtype == np.uint16 and found.shape[2] > 1  # more than Pillow's images hold
        return _pillow(to_depth(from_depth(found), np.uint8) if deep else found, info)

    return Taken(photo.pixels, photo.alpha, give, photo.grey)


def _pillow(samples: np.ndarray, info: dict[str | tuple[int, int], object]) -> Image.Image:
    made = Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)
    made.info.update(info)
    return made
