"""Decode the bytes of an image file to pixels, for data from any source."""

import numpy as np

from diffbir_jax.data.example import BrokenExampleError
from diffbir_jax.files.errors import ImageFileError, reason
from diffbir_jax.imaging.decoding import FORMATS, HEAD, decode, kind_of
from diffbir_jax.imaging.photo import MAX_PIXELS, Photo
from diffbir_jax.imaging.reading import over_white, to_eight


def samples(data: bytes) -> np.ndarray:
    """Return the upright samples (H, W, C) of an image file, uint8 or uint16, see `imaging.decoding.decode`.

    Raises:
        BrokenExampleError: it is no image, damaged, cut off, or smaller than 16 pixels; the message has no file name.
    """
    kind = kind_of(data[:HEAD])
    if kind is None:
        raise BrokenExampleError(f"is not a {FORMATS} image; convert it to one of these")
    try:
        return decode(data, kind, MAX_PIXELS).samples
    except MemoryError:
        # Not a fault of the file: another example would fail as well.
        raise
    except ImageFileError as error:
        raise BrokenExampleError(str(error)) from None
    except Exception as error:  # Decoders report damage by many types of errors.
        raise BrokenExampleError(f"is damaged or cut off ({reason(error)})") from None


def pixels(image: bytes | np.ndarray) -> np.ndarray:
    """Return (H, W, 3) uint8 RGB from a file's bytes (upright, transparency over white) or from pixels.

    Raises:
        BrokenExampleError: see `samples`; or pixels of another shape or dtype.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise BrokenExampleError(f"is {image.dtype} of shape {image.shape}; store (H, W, 3) uint8 RGB")
        return image
    return _rgb(samples(image))


def _rgb(image: np.ndarray) -> np.ndarray:
    """Convert (H, W, C) uint8 or uint16 to uint8 RGB; C is 1 gray, 2 gray and alpha, 3 RGB, or 4 RGB and alpha."""
    channels = image.shape[2]
    colours = image[..., :3] if channels > 2 else np.repeat(image[..., :1], 3, axis=2)
    alpha = image[..., -1] if channels in (2, 4) else None
    return to_eight(over_white(Photo(colours, alpha)))
