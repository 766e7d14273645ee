"""Canvases of latents that images lie on: what steers their sampling, and the tiles that the diffusion model sees."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from diffbir_jax.imaging.tiling import Grid, Tiles, place_tiles


class Layout(NamedTuple):
    """Tiles that the diffusion model sees of canvases of latents.

    Attributes:
        size: height and width of a tile in latent pixels.
        batch: tiles that it sees at once.
        tiles: where they lie on the latents.
        pixels: the same on the images, for guidance through the decoder.
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
        count: tiles that there is room for; rounded up to a multiple of `batch`.
        batch: tiles that the model sees at once.
        downsample: pixels per latent pixel.
        canvases: how many there are; 0 for one per image.
    """
    canvases = canvases or len(grids)
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
    """What steers sampling.

    Attributes:
        latent: (B, h, w, c), scaled latents of the stage-1 images.
        weight: of guidance: (B, h, w, 1), or (B, H, W, 1) where decoded images are compared.
        target: (B, H, W, 3) stage-1 images in [-1, 1]; needed where decoded images are compared.
        layout: tiles; None samples whole.
        hint: (B, h, w, c), what the control sees in place of the latent; None: the latent.
    """

    latent: Any
    weight: Any
    target: Any = None
    layout: Layout | None = None
    hint: Any = None
