"""Functions of large images, tile by tile, blended where tiles overlap."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

# Variance of the weights, in units of the squared side of a tile.
VARIANCE = 0.01


def tile_starts(length: int, size: int, stride: int) -> np.ndarray:
    """Where tiles begin along an axis: every `stride`, and once more so that the last one ends with the axis.

    Args:
        length: of the axis.
        size: of a tile.
        stride: from one tile to the next; at most `size`, or what lies between is left out.

    Returns:
        (N,) rising int32.

    Raises:
        ValueError: a tile is longer than the axis, or the stride is not in [1, size].
    """
    if not 1 <= size <= length:
        raise ValueError(f"tiles of {size} do not fit into {length}; use smaller tiles or none")
    if not 1 <= stride <= size:
        raise ValueError(f"tiles of {size} given a stride of {stride}; allowed are 1 to {size}")
    starts = np.arange(0, length - size + 1, stride)
    return np.union1d(starts, length - size).astype(np.int32)


def tile_windows(height: int, width: int, size: int, stride: int) -> np.ndarray:
    """Tiles of an image, row by row.

    Args:
        height, width: of the image.
        size: side of a tile.
        stride: see `tile_starts`, which says what is raised.

    Returns:
        (N, 4) int32: top, bottom, left, right; bottom and right are excluded.
    """
    rows, columns = (tile_starts(length, size, stride) for length in (height, width))
    top, left = (grid.ravel() for grid in np.meshgrid(rows, columns, indexing="ij"))
    return np.stack([top, top + size, left, left + size], axis=1)


def gaussian_weights(height: int, width: int) -> np.ndarray:
    """Weights that fall from the middle of a tile to its borders, as a normal density does.

    The middle is (width - 1) / 2 along rows and, half a pixel further, height / 2 along columns: so in the reference.

    Returns:
        (height, width) float64, above 0.
    """
    return np.outer(*_densities(height, width))


def tiled(function: Callable[[Any], Array], x: Any, size: int, stride: int) -> Array:
    """Apply a function to overlapping tiles, one after the other, and blend the results with `gaussian_weights`.

    A part of the compiled program, whatever the number of tiles, and differentiable. What the function needs whole, it
    closes over.

    Args:
        function: tiles of `x` -> (B, s, s, C), of any side s: its results are placed at that scale, origins rounded
            down.
        x: an array (B, H, W, C), or a tree of such that are cut alike and differ in B and C at most.
        size: side of a tile in pixels of `x`, at most H and W.
        stride: from one tile to the next.

    Returns:
        (B, H s / size, W s / size, C) of the function's dtype; sums are float32.

    Raises:
        ValueError: tiles that do not fit, or arrays of different sides.
    """
    sides = {leaf.shape[1:3] for leaf in jax.tree.leaves(x)}
    if len(sides) != 1:
        raise ValueError(
            f"arrays of sides {sorted(sides)} cannot be cut alike; give them one height and width"
        )
    ((height, width),) = sides
    starts = tile_windows(height, width, size, stride)[:, ::2]

    def result(start: Array | np.ndarray) -> Array:
        return function(jax.tree.map(lambda a: _cut(a, start, size), x))

    like = jax.eval_shape(result, starts[0])
    side = like.shape[1]
    targets = starts * side // size
    weights = jnp.asarray(gaussian_weights(side, side), jnp.float32)[None, :, :, None]

    def body(total: Array, where: tuple[Array, Array]) -> tuple[Array, None]:
        start, target = where
        blended = _cut(total, target, side) + result(start).astype(jnp.float32) * weights
        return lax.dynamic_update_slice(total, blended, (0, *target, 0)), None

    height, width = targets.max(axis=0) + side
    total = jnp.zeros((like.shape[0], height, width, like.shape[3]), jnp.float32)
    total, _ = lax.scan(body, total, (jnp.asarray(starts), jnp.asarray(targets)))
    return (total / _total_weights(targets, side)).astype(like.dtype)


def _densities(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Factors (height,) and (width,) of `gaussian_weights`."""
    rows = (np.arange(height) - height / 2) / height
    columns = (np.arange(width) - (width - 1) / 2) / width
    scale = 1 / np.sqrt(2 * np.pi * VARIANCE)
    return scale * np.exp(-(rows**2) / (2 * VARIANCE)), scale * np.exp(-(columns**2) / (2 * VARIANCE))


def _cut(array: Array, start: Array | np.ndarray, size: int) -> Array:
    shape = (array.shape[0], size, size, array.shape[3])
    return lax.dynamic_slice(array, (0, *start, 0), shape)


def _total_weights(starts: np.ndarray, size: int) -> Array:
    """Sum of the weights of all tiles (1, H, W, 1): tiles form a grid, so it is a product of sums along the axes."""
    sums = []
    for axis, density in enumerate(_densities(size, size)):
        begins = np.unique(starts[:, axis])
        placed = [np.pad(density, (begin, begins[-1] - begin)) for begin in begins]
        sums.append(jnp.asarray(np.sum(placed, axis=0), jnp.float32))
    return sums[0][None, :, None, None] * sums[1][None, None, :, None]
