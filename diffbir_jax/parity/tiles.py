"""Tiles as the golden values have them: of whole images, all cut alike."""

from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax import Array

from diffbir_jax.imaging.tiling import blend, make_grid, place_tiles, tile_starts

T = TypeVar("T")


def tile_windows(height: int, width: int, size: int, stride: int) -> np.ndarray:
    """Return the tiles of an image, row by row. Errors as in `tile_starts`.

    Args:
        height, width: sides of the image.
        size: side of a tile.
        stride: see `tile_starts`.

    Returns:
        (N, 4) int32: top, bottom, left, right; bottom and right are excluded.
    """
    rows, columns = (tile_starts(length, size, stride) for length in (height, width))
    top, left = (grid.ravel() for grid in np.meshgrid(rows, columns, indexing="ij"))
    return np.stack([top, top + size, left, left + size], axis=1)


def tiled(function: Callable[[T], Array], x: T, size: int, stride: int) -> Array:
    """`blend` for square tiles of whole canvases, all with the same grid.

    Args:
        function: tiles of `x` -> (B, s, s, C), of any side s.
        x: an array (B, H, W, C), or a tree of such arrays that differ only in C.
        size: side of a tile in pixels of `x`, at most H and W.
        stride: distance from one tile to the next.

    Returns:
        (B, H s / size, W s / size, C) of the function's dtype.

    Raises:
        ValueError: tiles that do not fit, or arrays of different sides.
    """
    leaves = jax.tree.leaves(x)
    shapes = {leaf.shape[1:3] for leaf in leaves}
    if len(shapes) != 1:
        raise ValueError(
            f"arrays of sides {sorted(shapes)} cannot be cut alike; give them one height and width"
        )
    batch, sides = len(leaves[0]), shapes.pop()
    grid = make_grid(sides, (size, size), (stride, stride))
    # The same tile of all images is one batch, because the functions of the golden values look across the batch.
    order = np.argsort(np.tile(np.arange(len(grid.starts)), batch), kind="stable")
    like = jax.eval_shape(
        function, jax.tree.map(lambda a: jax.ShapeDtypeStruct((batch, size, size, a.shape[3]), a.dtype), x)
    )
    scaled = grid.scaled(like.shape[1], size)
    tiles = place_tiles([scaled] * batch, scaled.sides, batch * len(grid.starts))
    start = np.concatenate([grid.starts] * batch)
    tiles = tiles._replace(image=tiles.image[order], start=start[order])
    return blend(lambda tile, _: function(tile), x, tiles, (size, size), batch)
