"""Training examples: read, decode, crop and degrade, with one random generator per example."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffbir_jax.console.errors import UserError
from diffbir_jax.data.decoding import pixels
from diffbir_jax.data.degradation import Degraded
from diffbir_jax.data.example import BrokenExampleError, DataError, Example, Source
from diffbir_jax.data.order import index_at
from diffbir_jax.imaging.bytes import resize_bytes, to_depth

DTYPES = ("uint8", "float32")
# Number of examples to try for one place in a batch before the run stops.
ATTEMPTS = 16

# Images and a text by name, and the list `broken`.
Item = dict[str, Any]


@dataclass(frozen=True)
class Items:
    """The endless sequence of training examples. Each is a pure function of the seed and its position.

    An epoch has as many positions as the source has examples, and its own order. A broken example is replaced by a
    random one, drawn from (seed, position, attempt).

    Attributes:
        source: the source of examples. If there is a `caption` function, one whose caption cannot be read is broken.
        crop: (image (H, W, 3) uint8, rng) -> crop (S, S, 3) uint8; it may raise BrokenExampleError.
        degrade: (crop, rng) -> Degraded; None for items without `lq`.
        caption: (captions by kind, rng) -> text, or None for items without `prompt`.
        seed: seed of the order and of all draws, in [0, 2**32).
        pair: (hq, lq, rng) -> crops of both, for examples that are pairs; see `Crop.pair`.
        dtype: "uint8" (rounded; a quarter of the bytes) or "float32" (in [0, 1]).

    Raises:
        DataError: the source is empty.
        ValueError: the seed or the dtype is not allowed.
    """

    source: Source
    crop: Callable[[np.ndarray, np.random.Generator], np.ndarray]
    degrade: Callable[[np.ndarray, np.random.Generator], Degraded] | None = None
    caption: Callable[[Mapping[str, str], np.random.Generator], str] | None = None
    seed: int = 0
    dtype: str = "uint8"
    pair: Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise UserError(f"the seed is {self.seed}, must be in [0, 2**32).")
        if self.dtype not in DTYPES:
            raise UserError(f"the dtype is {self.dtype!r}, allowed are {', '.join(DTYPES)}.")
        if not len(self.source):
            raise DataError("the data source holds no example: check its path and what it was prepared from.")

    def __call__(self, position: int) -> Item:
        """Return the item at `position` (0, 1, ...).

        Returns:
            `hq` and, with a degradation, `lq` (S, S, 3); `prompt` (str) if there is a `caption` function; and `broken`,
            a list of (index, message) of the examples that this one replaces.

        Raises:
            DataError: none of `ATTEMPTS` examples could be used, or an unexpected error occurred.
        """
        broken: list[tuple[int, str]] = []
        for attempt in range(ATTEMPTS):
            # The generator depends on the position alone, so workers and threads may share the work in any
            # way.
            rng = np.random.default_rng((self.seed, position, attempt))
            count = len(self.source)
            index = int(rng.integers(count)) if attempt else index_at(position, count, self.seed)
            try:
                return self._make(index, rng) | {"broken": broken}
            except BrokenExampleError as error:
                broken.append((index, str(error)))
            # A fault of the code or the settings would recur in every example, so the run stops at once.
            except Exception as error:
                raise DataError(f"example {index} of the source: {type(error).__name__}: {error}") from error
        raise DataError(
            f"{ATTEMPTS} of {ATTEMPTS} examples tried one after the other are broken, the first being: "
            f"{broken[0][1]}; mend or remove such photos, or prepare the data set again"
        )

    def _make(self, index: int, rng: np.random.Generator) -> Item:
        example = self.source[index]
        if self.caption is not None and example.fault:
            raise BrokenExampleError(example.fault)
        try:
            images = self._images(example, rng)
        except BrokenExampleError as error:
            raise BrokenExampleError(f"{example.name}: {error}") from error
        item: Item = {name: _stored(image, self.dtype) for name, image in images.items()}
        return item if self.caption is None else item | {"prompt": self.caption(example.captions, rng)}

    def _images(self, example: Example, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return the crop, and the degraded one of a pair or by a degradation."""
        if example.lq is not None and self.pair is not None:
            try:
                degraded = pixels(example.lq)
            except BrokenExampleError as error:
                raise BrokenExampleError(f"its LQ {error}") from error
            hq, lq = self.pair(pixels(example.image), degraded, rng)
            return {"hq": hq, "lq": enlarged(lq, hq.shape[:2])}
        hq = self.crop(pixels(example.image), rng)
        if self.degrade is None:
            return {"hq": hq}
        made = self.degrade(hq, rng)
        return {"hq": made.hq, "lq": enlarged(made.lq, hq.shape[:2])}


def enlarged(lq: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
    """Return an input of the target's size: itself, or enlarged from 8 bits as in restoration, as users have files."""
    return lq if lq.shape[:2] == sides else resize_bytes(to_depth(lq, np.uint8), sides)


def _stored(image: np.ndarray, dtype: str) -> np.ndarray:
    """Convert uint8, or floats in [0, 1], to `dtype`."""
    if dtype == "uint8":
        return image if image.dtype == np.uint8 else to_depth(image, np.uint8)
    return image.astype(np.float32) / np.float32(255) if image.dtype == np.uint8 else image.astype(np.float32)
