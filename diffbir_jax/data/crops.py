"""Square crops of a photo, and their augmentation by flips and quarter turns.

"center" and "random" are the crops of guided diffusion (Dhariwal and Nichol, 2021); DiffBIR trains with them. The photo
is halved by a box filter while enough pixels remain, then Pillow's bicubic filter brings it to size.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from diffbir_jax.console.errors import UserError
from diffbir_jax.data.example import BrokenExampleError
from diffbir_jax.imaging.bytes import resize_bytes

# The smallest share of a photo's short side that a "random" crop spans.
SMALLEST_SHARE = 0.7


@dataclass(frozen=True)
class Crop:
    """The settings of a crop; a call takes a (size, size, 3) uint8 crop from a photo of any size.

    Attributes:
        kind: "center", the middle square of the short side; "random", a square at a random place with 0.7 to 1 of the
            short side; "scaled", a square at a random place with a scale from `scale`; "none", the whole photo, which
            must have this size.
        size: side of the crop (pixels).
        flip: mirror half of the crops horizontally.
        rotate: turn crops by 0, 90, 180 or 270 degrees.
        scale: range of the factor by which "scaled" resizes a photo (1: unchanged), drawn log-uniformly.

    Raises:
        ValueError: another kind, or a size below 1.
    """

    kind: str
    size: int
    flip: bool = False
    rotate: bool = False
    scale: tuple[float, float] = (0.3, 1.0)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"the crop's kind is {self.kind!r}, allowed are {', '.join(KINDS)}.")
        if self.size < 1:
            raise UserError(f"the crop's size is {self.size}, must be at least 1.")

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return a crop (size, size, 3) uint8 of `image` (H, W, 3) uint8; all random numbers come from `rng`.

        Raises:
            BrokenExampleError: `kind` is "none" and the image has another size.
        """
        return augment(KINDS[self.kind](image, rng, self), rng, self.flip, self.rotate)

    def pair(self, hq: np.ndarray, lq: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return crops of a pair from the same place, without resizing either; `lq`'s is as much smaller as its photo.

        Args:
            hq: (s H, s W, 3) uint8, for a whole number s.
            lq: (H, W, 3) uint8.
            rng: draws place, flip and turns. The place of kind "center" is the middle, that of "random" and "scaled"
                any; "none" takes pairs of the crop's size.

        Returns:
            (size, size, 3) and (size / s, size / s, 3) uint8.

        Raises:
            BrokenExampleError: sides are no multiples, or smaller than the crop, or `size` is no multiple of s.
        """
        factor, side = self._factor(hq, lq), self.size
        spare = [length - side // factor for length in lq.shape[:2]]
        if self.kind == "center":
            place = [n // 2 for n in spare]
        else:
            place = [int(rng.integers(n + 1)) for n in spare]
        state = int(rng.integers(2**63))

        def cut(image: np.ndarray, scale: int) -> np.ndarray:
            top, left = (scale * start for start in place)
            part = image[top:, left:][: side * scale // factor, : side * scale // factor]
            # Each image has its own generator in the same state: both are mirrored and turned alike.
            return augment(part, np.random.default_rng(state), self.flip, self.rotate)

        return cut(hq, factor), cut(lq, 1)

    def _factor(self, hq: np.ndarray, lq: np.ndarray) -> int:
        """Return the scale between the images of a pair that crops can be cut from."""
        (height, width), (small, narrow) = hq.shape[:2], lq.shape[:2]
        sizes = f"HQ is {width}x{height} pixels, LQ {narrow}x{small}"
        factor = height // small
        if factor < 1 or (height, width) != (factor * small, factor * narrow):
            raise BrokenExampleError(f"{sizes}; HQ must be 1, 2, 3 ... times as large, along both sides")
        if self.size % factor:
            raise BrokenExampleError(f"{sizes}; the crop's size {self.size} must be a multiple of {factor}")
        if self.size > min(height, width) or (self.kind == "none" and (height, width) != 2 * (self.size,)):
            allowed = "exactly" if self.kind == "none" else "at least"
            raise BrokenExampleError(f"{sizes}; HQ must have {allowed} {self.size}x{self.size} for this crop")
        return factor


def augment(crop: np.ndarray, rng: np.random.Generator, flip: bool, rotate: bool) -> np.ndarray:
    """Return a square (S, S, C), mirrored with probability 1/2 and rotated by a random number of quarter turns."""
    crop = crop[:, ::-1] if flip and rng.random() < 0.5 else crop
    return np.ascontiguousarray(np.rot90(crop, int(rng.integers(4))) if rotate else crop)


def scaled(image: np.ndarray, rng: np.random.Generator, size: int, scale: tuple[float, float]) -> np.ndarray:
    """Return a square (size, size, 3) from a random place, at a scale that is log-uniform in `scale`; area-averaged."""
    # Log-uniform: halving is as likely at any scale.
    factor = np.exp(rng.uniform(*np.log(scale)))
    # A small photo limits the side; the crop is then enlarged.
    side = min(round(size / factor), *image.shape[:2])
    crop = _cut(image, side, rng)
    return crop if side == size else cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)


def shrink(image: np.ndarray, side: int) -> np.ndarray:
    """Resize (H, W, 3) uint8 so that the short side is `side`: halved by a box filter, then bicubic."""
    short = min(image.shape[:2])
    # Box halving comes first, as in guided diffusion: it is fast, and stands for Pillow's `reducing_gap`.
    while short >= 2 * side:
        height, width = (n // 2 for n in image.shape[:2])
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))
        short = min(image.shape[:2])
    height, width = (round(n * side / short) for n in image.shape[:2])
    return resize_bytes(image, (height, width))


def _center(image: np.ndarray, rng: np.random.Generator, crop: Crop) -> np.ndarray:
    image = shrink(image, crop.size)
    top, left = ((n - crop.size) // 2 for n in image.shape[:2])
    return image[top : top + crop.size, left : left + crop.size]


def _random(image: np.ndarray, rng: np.random.Generator, crop: Crop) -> np.ndarray:
    # The photo is resized so that the crop spans 0.7 to 1 of its short side.
    side = int(rng.integers(crop.size, int(np.ceil(crop.size / SMALLEST_SHARE)) + 1))
    return _cut(shrink(image, side), crop.size, rng)


def _scaled(image: np.ndarray, rng: np.random.Generator, crop: Crop) -> np.ndarray:
    return scaled(image, rng, crop.size, crop.scale)


def _none(image: np.ndarray, rng: np.random.Generator, crop: Crop) -> np.ndarray:
    height, width = image.shape[:2]
    if (height, width) != (crop.size, crop.size):
        raise BrokenExampleError(
            f'is {width}x{height} pixels, must be {crop.size}x{crop.size}; take a crop of kind "center" or "random"'
        )
    return image


def _cut(image: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    top, left = (int(rng.integers(n - side + 1)) for n in image.shape[:2])
    return image[top : top + side, left : left + side]


KINDS: dict[str, Callable[[np.ndarray, np.random.Generator, Crop], np.ndarray]] = {
    "center": _center,
    "random": _random,
    "scaled": _scaled,
    "none": _none,
}
