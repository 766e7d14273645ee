"""Checks of images before the pipeline processes them."""

import numpy as np
from numpy.typing import DTypeLike

from diffbir_jax.console.errors import UserError
from diffbir_jax.imaging.bytes import DTYPES


def not_finite(stage: str, dtype: DTypeLike) -> UserError:
    """Return the error for a stage that computed NaN or infinity in `dtype`; as bytes these would be black."""
    return UserError(
        f"{stage} gave NaN or infinity in {np.dtype(dtype).name}; use `precision` bf16 or fp32 and scales that "
        "are less extreme, and if it remains, convert the weights again: a file is damaged"
    )


def check_range(image: np.ndarray) -> None:
    """Raise UserError if a float image (H, W, C) is not in [0, 1], for example one with levels up to 255."""
    if image.dtype.kind != "f" or (image.min() >= 0.0 and image.max() <= 1.0):
        return
    # The dtype stays out of the message: callers' arrays of float64 and float16 come here as float32.
    if bad := image.size - np.count_nonzero(np.isfinite(image)):
        raise UserError(
            f"image has NaN or infinity in {bad:,} of {image.size:,} values; floats are in [0, 1], so mend them first"
        )
    raise UserError(
        f"image has floats from {image.min():g} to {image.max():g}; floats are in [0, 1], so divide 8-bit levels by "
        "255, 16-bit levels by 65535"
    )


def check_proportions(given: np.ndarray, image: np.ndarray, what: str) -> None:
    """Raise ValueError unless the user's `given` (h, w, ...) has the proportions of `image` (H, W, 3), at any scale.

    One pixel more or less per side is allowed, because a scaled side is rounded. `what` is its name in the message.
    """
    (h, w), (height, width) = given.shape[:2], image.shape[:2]
    if abs(h * width - w * height) > height + width:
        raise UserError(
            f"the {what} is {w}x{h}, of other proportions than the input of {width}x{height}; "
            "make it from this input, uncropped, at any scale"
        )


def check_layout(given: np.ndarray, like: tuple[int, ...], what: str) -> None:
    """Raise ValueError unless `given` is (h, w, *like) uint8, uint16 or float32; `what` names it."""
    if given.dtype not in DTYPES or given.ndim != 2 + len(like) or given.shape[2:] != like:
        allowed = ", ".join(("h", "w", *map(str, like)))
        raise UserError(
            f"the {what} is {given.dtype} of shape {given.shape}; give ({allowed}) uint8, uint16 or float32"
        )
