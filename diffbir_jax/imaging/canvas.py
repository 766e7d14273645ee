"""Tiles of images on the host: cut without padding the whole image, blended without a second copy of it.

Nothing here is compiled, so images may have any size.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from PIL import Image

from diffbir_jax.imaging.tiling import Grid, gaussian_weights

# What lies outside an image: its border repeated, zeros, mid-grey, or the image mirrored at its border.
Padding = Literal["edge", "constant", "grey", "reflect"]
GREY = 0.5


def cut_padded(image: np.ndarray, start: np.ndarray, size: tuple[int, int], mode: Padding) -> np.ndarray:
    """Cut a tile that may reach beyond the bottom and the right of an image.

    Args:
        image: (H, W, C).
        start: (2,) top and left, inside the image or beyond it (if the padding is larger than a tile).
        size: height and width of the tile.
        mode: values outside the image, see `Padding`. "reflect" mirrors what the tile shows of the image.

    Returns:
        (*size, C).
    """
    top, left = start
    if mode == "edge":
        # A tile that is completely outside repeats the last row or column.
        top, left = (min(at, side - 1) for at, side in zip(start, image.shape[:2]))
    part = image[top : top + size[0], left : left + size[1]]
    missing = [(0, size[i] - part.shape[i]) for i in range(2)]
    if not any(map(any, missing)):
        return part
    if mode == "grey":
        return np.pad(part, (*missing, (0, 0)), constant_values=GREY)
    return np.pad(part, (*missing, (0, 0)), mode=mode)


def from_depth(image: np.ndarray) -> np.ndarray:
    """Convert uint8 or uint16 to float32 in [0, 1]; floats are returned unchanged."""
    if image.dtype.kind == "f":
        return image
    return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)


def resize_float(image: np.ndarray, size: tuple[int, int], clip: bool = False) -> np.ndarray:
    """Resize (h, w, C) floats to float32 of `size` = (H, W) by Pillow's bicubic filter, which equals `resize.resize`.

    An image of that size is returned unchanged, in its own dtype. Otherwise `clip` clips it to [0, 1] first.
    """
    if image.shape[:2] == tuple(size):
        return image
    resized = np.empty((*size, image.shape[2]), np.float32)
    for channel in range(image.shape[2]):  # one by one: images may be large
        one = np.ascontiguousarray(image[..., channel], np.float32)
        found = Image.fromarray(one.clip(0, 1) if clip else one)
        resized[..., channel] = np.asarray(found.resize((size[1], size[0]), Image.Resampling.BICUBIC))
    return resized


class Blender:
    """Blends the tiles of one image as they arrive, row by row, with the same result as `tiling.blend`.

    It keeps float32 sums only of the rows that later tiles may still touch. Finished rows go to `put`.
    """

    def __init__(self, grid: Grid, put: Callable[[int, np.ndarray], None]):
        """Take the grid of the results, and the function for finished rows: put(top, (h, W, C) float32)."""
        self.grid, self.put = grid, put
        self.count, self.row = 0, 0
        self.weights = gaussian_weights(*grid.size).astype(np.float32)[:, :, None]
        self.sums = tuple(total.astype(np.float32) for total in grid.sums())
        self.total = np.zeros((0, 0, 0), np.float32)

    def add(self, tile: np.ndarray) -> None:
        """Add the next tile, (h, w, C)."""
        row, column = divmod(self.count, len(self.grid.columns))
        self.count += 1
        height, width = self.grid.size
        if len(self.grid.rows) == len(self.grid.columns) == 1:
            self.put(0, np.asarray(tile, np.float32))
            return
        if self.count == 1:
            self.total = np.zeros((height, self.grid.sides[1], tile.shape[2]), np.float32)
        # The first tile of a new row of tiles: rows above it are complete.
        if row > self.row:
            self._finish(self.grid.rows[row] - self.grid.rows[self.row])
            self.row = row
        left = self.grid.columns[column]
        self.total[:, left : left + width] += tile * self.weights
        if self.count == len(self.grid.rows) * len(self.grid.columns):
            self._finish(height)

    def _finish(self, rows: int) -> None:
        """Pass the first `rows` rows on and move the others up."""
        top = self.grid.rows[self.row]
        sums = self.sums[0][top : top + rows, None, None] * self.sums[1][None, :, None]
        self.put(int(top), self.total[:rows] / sums)
        self.total[:-rows] = self.total[rows:]
        self.total[len(self.total) - rows :] = 0.0
