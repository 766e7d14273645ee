"""How a photo was degraded, as the shipped network reads it: from tiles of the photo, joined by weighted medians."""

import functools
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from diffbir_jax.console.errors import UserError
from diffbir_jax.imaging.checks import check_layout, check_range
from diffbir_jax.imaging.reading import to_eight
from diffbir_jax.models.apply import Params, abstract, apply
from diffbir_jax.models.degradation import QUANTITIES, DegradationReader
from diffbir_jax.weights.loading import PRETRAINED
from diffbir_jax.weights.safetensors import load_weights

WEIGHTS = PRETRAINED / "degradation.safetensors"
# Sides of tiles, the larger one where it fits: the network was trained on both. Tiles start at corners of JPEG blocks;
# those of colour have 16 pixels.
SIDES, STEP = (128, 64), 16
# A photo is read from at most so many tiles, evenly spread; those of smaller photos fill a smaller program.
MOST, FEW = 24, 4


@dataclass(frozen=True)
class Estimate:
    """How a photo was degraded; `models.degradation.DegradationReader` defines each quantity.

    Attributes:
        blur: standard deviation (pixels of the photo before it was enlarged).
        noise: standard deviation (levels of 255).
        quality: of JPEG, 1 to 100; 100 without a trace of it.
        scale: by how much the photo was reduced and enlarged again, 1 to 4.
        errors: the expected absolute errors of these four, in this order.
    """

    blur: float
    noise: float
    quality: float
    scale: float
    errors: tuple[float, ...] = ()

    def as_record(self) -> dict[str, float | list[float]]:
        """Return it in a form that JSON can hold, rounded to three decimals."""
        values = {name: round(getattr(self, name), 3) for name in QUANTITIES}
        return {**values, "errors": [round(error, 3) for error in self.errors]}


def estimate(image: np.ndarray) -> Estimate:
    """Read how an image was degraded.

    >>> import numpy as np
    >>> noise = np.random.default_rng(0).normal(128, 20, (64, 64, 3))
    >>> 15 < estimate(noise.clip(0, 255).astype(np.uint8)).noise < 25
    True

    Args:
        image: (H, W, 3) RGB of at least 64x64 pixels, uint8, uint16 or float32 in [0, 1], as decoded from its file:
            JPEG leaves its trace on the file's own pixels.

    Raises:
        UserError: another shape or dtype, or a smaller image.
    """
    check_layout(image, (3,), "image")
    check_range(image)
    height, width = image.shape[:2]
    if min(height, width) < SIDES[-1]:
        raise UserError(f"the image is {width}x{height}; the estimate needs at least {SIDES[-1]}x{SIDES[-1]}")
    side = next(side for side in SIDES if min(height, width) >= side)
    tiles = np.stack(
        [_eight(image[top : top + side, left : left + side]) for top, left in places(height, width, side)]
    )
    values, errors = read_tiles(tiles)
    return joined(values, errors)


def places(height: int, width: int, side: int) -> list[tuple[int, int]]:
    """Return the upper left corners of the tiles of a photo: at most `MOST`, evenly spread, on the grid of JPEG."""
    down, across = -(-height // side), -(-width // side)
    while down * across > MOST:
        # Fewer along the axis where they lie closer together.
        if down > 1 and height * across <= width * down:
            down -= 1
        else:
            across -= 1
    return [(top, left) for top in _starts(height, side, down) for left in _starts(width, side, across)]


def _starts(length: int, side: int, count: int) -> list[int]:
    last = length - side
    starts = np.linspace(0 if count > 1 else last / 2, last, count)
    return sorted({int(start) // STEP * STEP for start in starts})


def _eight(tile: np.ndarray) -> np.ndarray:
    """Levels of 255 of a tile: bytes, or rounded from 16 bits or floats."""
    return np.rint(tile * 255.0).astype(np.uint8) if tile.dtype == np.float32 else to_eight(tile)


def read_tiles(tiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Read tiles (N, side, side, 3) uint8, N of at most `MOST`: values and expected errors, (N, 4) float32 each."""
    size = FEW if len(tiles) <= FEW else MOST
    filled = np.zeros((size, *tiles.shape[1:]), np.uint8)
    filled[: len(tiles)] = tiles
    values, errors = _program()(_params(), filled)
    return np.asarray(values)[: len(tiles)], np.asarray(errors)[: len(tiles)]


@functools.cache
def _program():
    """The compiled network, a few tiles at a time."""
    module = DegradationReader()

    @jax.jit
    def read(params: Params, tiles: jax.Array) -> tuple[jax.Array, jax.Array]:
        def one(tile: jax.Array) -> tuple[jax.Array, jax.Array]:
            values, errors = apply(module, params, tile[None])
            return values[0], errors[0]

        return jax.lax.map(one, tiles, batch_size=FEW)

    return read


@functools.cache
def _params() -> Params:
    return load_reader(WEIGHTS)


def load_reader(path: Path) -> Params:
    """Load the parameters of a `DegradationReader` with the shipped sizes; errors as in `load_weights`."""
    sample = jax.ShapeDtypeStruct((1, SIDES[-1], SIDES[-1], 3), jnp.float32)
    return load_weights(path, abstract(DegradationReader(), sample))


def joined(values: np.ndarray, errors: np.ndarray) -> Estimate:
    """Join the tiles of a photo: medians weighted by the inverse squares of the expected errors.

    Args:
        values: (N, 4).
        errors: (N, 4), above 0. Sky says nothing about blur, and a meadow little about noise.
    """
    weights = 1.0 / np.square(errors)
    found = [weighted_median(values[:, i], weights[:, i]) for i in range(len(QUANTITIES))]
    # Tiles of a photo err together, so more of them do not make the error smaller.
    expected = (errors * weights).sum(0) / weights.sum(0)
    return Estimate(*found, errors=tuple(map(float, expected)))


def weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    """Return the value (of N) below which half of the weight lies."""
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)])
