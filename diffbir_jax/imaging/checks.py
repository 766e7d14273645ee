"""What an image must be before the pipeline goes on with it."""

from typing import Any

import numpy as np

from diffbir_jax.console.errors import UserError
from diffbir_jax.imaging.bytes import DTYPES


def not_finite(stage: str, dtype: Any) -> UserError:
    """Return the error for a stage that computed NaN or infinity in `dtype`, which bytes would show as black."""
    return UserError(
        f"{stage} gave NaN or infinity in {np.dtype(dtype).name}; use `precision` bf16 or fp32 and scales that "
        "are less extreme, and if it stays, convert the weights anew: a file is damaged"
    )


def check_range(image: np.ndarray) -> None:
    """Raise ValueError if a float image (H, W, C) is not in [0, 1], as one of 255 levels is not."""
    if image.dtype.kind == "f" and not (image.min() >= 0.0 and image.max() <= 1.0):
        raise UserError(
            f"image is {image.dtype} from {image.min():g} to {image.max():g}; floats are in [0, 1], so divide 8-bit "
            "levels by 255"
        )


def check_proportions(given: np.ndarray, image: np.ndarray, what: str) -> None:
    """Raise ValueError unless `given` (h, w, ...), which a user made, has the shape of `image` (H, W, 3) at some scale.

    A pixel more or less on each side is what rounding makes of a scale. `what` names it in the message.
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
