"""Canvases of latents with images on them: the inputs that control their sampling, and the diffusion model's tiles."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax import Array

from diffbir_jax.imaging.tiling import Grid, Tiles, place_tiles
from diffbir_jax.sampling.operators import Measured


class Layout(NamedTuple):
    """Tiles in which the diffusion model sees canvases of latents.

    Attributes:
        size: height and width of a tile in latent pixels.
        batch: tiles that the model sees at once.
        tiles: their positions on the latents.
        pixels: their positions on the images, for guidance through the decoder.
    """

    size: tuple[int, int]
    batch: int
    tiles: Tiles
    pixels: Tiles


def make_layout(
    grids: Sequence[Grid], sides: tuple[int, int], count: int, batch: int, downsample: int, canvases: int = 0
) -> Layout:
    """Lay out the tiles of images on canvases of latents.

    Args:
        grids: one per image, in latent pixels, with tiles of one size.
        sides: height and width of the canvases in latent pixels.
        count: room for this many tiles; rounded up to a multiple of `batch`.
        batch: tiles that the model sees at once.
        downsample: pixels per latent pixel.
        canvases: number of canvases; 0 for one per image.
    """
    canvases = canvases or len(grids)
    # Whole batches only, so that one compiled program serves any number of tiles.
    count = -(-count // batch) * batch
    pixels = [grid.scaled(downsample) for grid in grids]
    height, width = (side * downsample for side in sides)
    return Layout(
        grids[0].size,
        batch,
        place_tiles(grids, sides, count, canvases),
        place_tiles(pixels, (height, width), count, canvases),
    )


class Conditioned(NamedTuple):
    """The inputs that control sampling.

    Attributes:
        latent: (B, h, w, c), scaled latents of the stage-1 images.
        weight: weight of guidance: (B, h, w, 1), or (B, H, W, 1) if decoded images are compared.
        target: (B, H, W, 3) stage-1 images in [-1, 1]; needed if decoded images are compared.
        layout: tiles; None samples whole.
        hint: (B, h, w, c), the control's input in place of the latent; None: the latent.
        start: (B, h, w, c), what sampling starts from in place of the latent; None: the latent.
        degrees: (B, n) of the images' degradation, for networks that depend on it; None: they do not.
        known: what the inputs say by a known degradation, on canvases; None: it is not known.
    """

    latent: Array
    weight: Array | np.ndarray
    target: Array | np.ndarray | None = None
    layout: Layout | None = None
    hint: Array | np.ndarray | None = None
    start: Array | None = None
    degrees: Array | np.ndarray | None = None
    known: Measured | None = None
