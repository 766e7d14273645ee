"""How published one-step restorers enlarge their inputs, before the networks see them."""

import numpy as np
from PIL import Image

from diffbir_jax.imaging.canvas import from_depth
from diffbir_jax.imaging.resize import resample

Sides = tuple[int, int]


def pillow_sides(image: Sides, upscale: float, least: int) -> tuple[Sides, Sides, Sides]:
    """Sides on OSEDiff's way to the networks, (height, width) each.

    Args:
        image: of the input.
        upscale: output side / input side.
        least: the shorter side of what the networks see has at least about this many pixels.

    Returns:
        of the input, enlarged if it is small; the same times `upscale`; the same rounded down to multiples of 8.
    """
    height, width = image
    short, wanted = min(image), int(least // upscale)
    if short < wanted:
        height, width = int(wanted / short * height), int(wanted / short * width)
    large = int(height * upscale), int(width * upscale)
    # At least one latent pixel: the published program fails for less.
    return (height, width), large, (max(8, large[0] - large[0] % 8), max(8, large[1] - large[1] % 8))


def by_pillow(image: np.ndarray, upscale: float, least: int) -> np.ndarray:
    """Enlarge as OSEDiff and PiSA-SR do: twice by Pillow's bicubic filter, then to multiples of 8 by Lanczos'.

    Args:
        image: (H, W, 3) uint8, uint16 or float32 in [0, 1]; uint8 is resized as bytes, as published.
        upscale, least: see `pillow_sides`.

    Returns:
        (h, w, 3) uint8, or float32 for the other dtypes.
    """
    first, large, final = pillow_sides((image.shape[0], image.shape[1]), upscale, least)
    kinds = ((first, "BICUBIC"), (large, "BICUBIC"), (final, "LANCZOS"))
    for sides, name in kinds:
        if image.shape[:2] != sides:
            image = _resized(image, sides, Image.Resampling[name])
    return image


def _resized(image: np.ndarray, sides: Sides, kind: Image.Resampling) -> np.ndarray:
    size = (sides[1], sides[0])
    if image.dtype == np.uint8:
        return np.asarray(Image.fromarray(image).resize(size, kind))
    # Pillow resizes images of more than 8 bits only as single float channels.
    channels = np.moveaxis(from_depth(image), -1, 0)
    resized = [np.asarray(Image.fromarray(np.ascontiguousarray(one)).resize(size, kind)) for one in channels]
    return np.stack(resized, axis=-1)


def by_bicubic(image: np.ndarray, sides: Sides, upscale: float) -> np.ndarray:
    """Enlarge as HYPIR does: PyTorch's bicubic filter by a factor; (H, W, 3) any depth -> float32, unclipped."""
    image = from_depth(image)
    return image if upscale == 1.0 else resample(image, sides, "bicubic", upscale)


def by_bilinear(image: np.ndarray, sides: Sides, upscale: float) -> np.ndarray:
    """Enlarge as S3Diff does: PyTorch's bilinear filter; (H, W, 3) of any depth -> float32 in [0, 1]."""
    image = from_depth(image)
    return image if upscale == 1.0 else resample(image, sides, "bilinear", upscale).clip(0.0, 1.0)
