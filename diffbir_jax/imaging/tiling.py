"""Apply functions to large images tile by tile, and blend the overlaps."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from diffbir_jax.console.errors import UserError

T = TypeVar("T")
# Variance of the weights, in units of the squared side of a tile.
VARIANCE = 0.01


def tile_starts(length: int, size: int, stride: int) -> np.ndarray:
    """Return the starts of tiles along an axis: every `stride`, and one more so that the last tile ends with the axis.

    Args:
        length: length of the axis.
        size: length of a tile.
        stride: distance from one tile to the next; at most `size`, because a larger one would leave gaps.

    Returns:
        (N,) rising int32.

    Raises:
        ValueError: a tile is longer than the axis, or the stride is not in [1, size].
    """
    if not 1 <= size <= length:
        raise UserError(f"tiles of {size} do not fit into {length}; use smaller tiles or none")
    if not 1 <= stride <= size:
        raise UserError(f"tiles of {size} given a stride of {stride}; allowed are 1 to {size}")
    starts = np.arange(0, length - size + 1, stride)
    return np.union1d(starts, length - size).astype(np.int32)


def gaussian_weights(height: int, width: int) -> np.ndarray:
    """Return weights that fall from the middle of a tile to its borders like a normal density.

    As in the reference, the middle is (width - 1) / 2 along rows but height / 2, half a pixel further, along columns.

    Returns:
        (height, width) float64, above 0.
    """
    return np.outer(*_densities(height, width))


class Grid(NamedTuple):
    """The tiles of one image, row by row.

    Attributes:
        rows: starts of the tiles from top to bottom, rising.
        columns: starts of the tiles from left to right, rising.
        size: height and width of a tile.
    """

    rows: np.ndarray
    columns: np.ndarray
    size: tuple[int, int]

    @property
    def starts(self) -> np.ndarray:
        """Top and left of each tile, (N, 2) int32."""
        top, left = (grid.ravel() for grid in np.meshgrid(self.rows, self.columns, indexing="ij"))
        return np.stack([top, left], axis=1)

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the image."""
        return int(self.rows[-1]) + self.size[0], int(self.columns[-1]) + self.size[1]

    def sums(self) -> tuple[np.ndarray, np.ndarray]:
        """Sums of the tiles' weights, (H,) and (W,) float64; their product is the sum at each pixel."""
        # Weights are products of a row and a column factor, so the sums separate, too.
        densities = zip((self.rows, self.columns), _densities(*self.size))
        return tuple(_placed(starts, density).sum(axis=0) for starts, density in densities)

    def owned(self) -> np.ndarray:
        """Mark the pixels that each tile owns, (N, h, w) bool; each pixel belongs to one tile, the nearest."""
        rows, columns = (_owned(s, n) for s, n in zip((self.rows, self.columns), self.size))
        both = rows[:, None, :, None] & columns[None, :, None, :]
        return both.reshape(-1, *self.size)

    def scaled(self, up: int, down: int = 1) -> "Grid":
        """Return the grid of the same image at the scale up / down; origins are rounded down."""
        height, width = (side * up // down for side in self.size)
        return Grid(self.rows * up // down, self.columns * up // down, (height, width))


def make_grid(sides: Sequence[int], size: Sequence[int], stride: Sequence[int]) -> Grid:
    """Return the grid of an image (height, width) with tiles of `size`, `stride` apart. Errors as in `tile_starts`."""
    rows, columns = (tile_starts(*axis) for axis in zip(sides, size, stride))
    return Grid(rows, columns, (size[0], size[1]))


class Tiles(NamedTuple):
    """The positions of tiles on a batch of canvases. They are values, so images of other sizes do not recompile.

    Attributes:
        image: (N,) int32, index of the canvas.
        start: (N, 2) int32, top and left.
        used: (N,) float32, 1 for a real tile, 0 for one that only fills up the batch.
        rows: (B, H) float32, sum of the tiles' weights along the columns of each canvas; 1 where there is no tile.
        columns: (B, W), the same along the rows.
    """

    image: Array | np.ndarray
    start: Array | np.ndarray
    used: Array | np.ndarray
    rows: Array | np.ndarray
    columns: Array | np.ndarray


def place_tiles(
    grids: Sequence[Grid], sides: tuple[int, int], count: int, canvases: int | None = None
) -> Tiles:
    """Place the tiles of images on canvases that may be larger than the images.

    Args:
        grids: one per image, with tiles of one size.
        sides: height and width of every canvas.
        count: number of tiles to return, at least the number of real tiles; the rest is filled up.
        canvases: number of canvases, at least the number of images (the default).
    """
    image = np.repeat(np.arange(len(grids)), [len(grid.starts) for grid in grids])
    start = np.concatenate([grid.starts for grid in grids])
    fill = (0, count - len(image))
    sums = [grid.sums() for grid in grids]
    rows, columns = (
        np.stack([np.pad(s[axis], (0, side - len(s[axis])), constant_values=1.0) for s in sums])
        for axis, side in enumerate(sides)
    )
    empty = (0, (canvases or len(grids)) - len(grids))
    rows, columns = (np.pad(total, (empty, (0, 0)), constant_values=1.0) for total in (rows, columns))
    used = np.pad(np.ones(len(image), np.float32), fill)
    image, start = np.pad(image, fill).astype(np.int32), np.pad(start, (fill, (0, 0))).astype(np.int32)
    return Tiles(image, start, used, rows.astype(np.float32), columns.astype(np.float32))


def blend(
    function: Callable[[T, Array], Array], x: T, tiles: Tiles, size: tuple[int, int], batch: int = 1
) -> Array:
    """Apply a function to the tiles of canvases, batch by batch, and blend the results with `gaussian_weights`.

    It is a loop inside the compiled program, for any number of tiles. It is differentiable, and the backward pass holds
    one batch. The function may close over whole arrays. Batches without a used tile cost nothing.

    Args:
        function: (tiles of `x` (batch, h, w, C), their canvases (batch,) int32) -> (batch, s h, s w, C), for any scale
            s. Results are placed at that scale, with origins rounded down; `tiles.rows` and `columns` must have it.
        x: an array (B, H, W, C), or a tree of such arrays that are cut in the same way.
        tiles: the positions, a multiple of `batch`.
        size: height and width of a tile in pixels of `x`.
        batch: number of tiles in one call of the function.

    Returns:
        (B, s H, s W, C) of the function's dtype, 0 where there is no tile; sums are float32.
    """
    groups = batches(tiles, batch)

    # Recomputed in the backward pass, which otherwise holds the activations of all tiles.
    @jax.checkpoint
    def result(image: Array, start: Array) -> Array:
        return function(jax.tree.map(lambda a: cut(a, image, start, size), x), image)

    like = jax.eval_shape(result, groups[0][0], groups[1][0])
    sides = like.shape[1:3]
    weights = jnp.asarray(gaussian_weights(*sides), jnp.float32)[None, :, :, None]

    def add(total: Array, group: tuple[Array, Array, Array]) -> Array:
        image, start, used = group
        parts = result(image, start).astype(jnp.float32) * weights * used[:, None, None, None]
        corners = jnp.stack([start[:, i] * sides[i] // size[i] for i in range(2)], axis=1)
        # One tile after another, because the tiles of a batch may overlap.
        return jax.lax.scan(_add_one, total, (parts, image, corners))[0]

    def body(total: Array, group: tuple[Array, Array, Array]) -> tuple[Array, None]:
        return lax.cond(group[2].sum() > 0, add, lambda total, _: total, total, group), None

    shape = (tiles.rows.shape[0], tiles.rows.shape[1], tiles.columns.shape[1], like.shape[3])
    total, _ = lax.scan(body, jnp.zeros(shape, jnp.float32), groups)
    sums = jnp.asarray(tiles.rows)[:, :, None, None] * jnp.asarray(tiles.columns)[:, None, :, None]
    return (total / sums).astype(like.dtype)


def batches(tiles: Tiles, batch: int) -> tuple[Array, Array, Array]:
    """Return `image`, `start` and `used` of tiles with a leading axis over batches, for a scan."""
    places = (tiles.image, tiles.start, tiles.used)
    image, start, used = (jnp.asarray(a).reshape(-1, batch, *a.shape[1:]) for a in places)
    return image, start, used


def cut(array: Array | np.ndarray, image: Array, start: Array, size: tuple[int, int]) -> Array:
    """Cut tiles (K, h, w, C) of `size` from canvases (B, H, W, C), at `start` (K, 2) of the canvases `image` (K,)."""

    def one(image: Array, start: Array) -> Array:
        shape = (1, *size, array.shape[3])
        return lax.dynamic_slice(array, (image, start[0], start[1], jnp.int32(0)), shape)[0]

    return jax.vmap(one)(image, start)


def _add_one(total: Array, part: tuple[Array, Array, Array]) -> tuple[Array, None]:
    values, image, corner = part
    where = (image, corner[0], corner[1], jnp.int32(0))
    here = lax.dynamic_slice(total, where, (1, *values.shape))
    return lax.dynamic_update_slice(total, here + values[None], where), None


def _placed(starts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return (N, length) with `values` at each start and zeros elsewhere."""
    return np.stack([np.pad(values, (start, starts[-1] - start)) for start in starts])


def _owned(starts: np.ndarray, size: int) -> np.ndarray:
    """Return (N, size) bool: the pixels between the middles of the overlaps with the neighbours."""
    middles = (starts[:-1] + size + starts[1:]) // 2
    begins, ends = np.append(starts[0], middles), np.append(middles, starts[-1] + size)
    pixel = starts[:, None] + np.arange(size)
    return (begins[:, None] <= pixel) & (pixel < ends[:, None])


def _densities(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the factors (height,) and (width,) of `gaussian_weights`."""
    rows = (np.arange(height) - height / 2) / height
    columns = (np.arange(width) - (width - 1) / 2) / width
    scale = 1 / np.sqrt(2 * np.pi * VARIANCE)
    return scale * np.exp(-(rows**2) / (2 * VARIANCE)), scale * np.exp(-(columns**2) / (2 * VARIANCE))
