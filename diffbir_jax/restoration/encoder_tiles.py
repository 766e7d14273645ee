"""What the programs of the autoencoder take for each tile of an image."""

from collections.abc import Iterator, Mapping

import jax.numpy as jnp
import numpy as np

from diffbir_jax.console.errors import UserError
from diffbir_jax.restoration.executor import Executor
from diffbir_jax.restoration.image import Frame
from diffbir_jax.sampling.loop import draw_noise, image_keys

# What a program takes for a tile, by name.
Tile = Mapping[str, np.ndarray | np.float32]
# Numbers that describe an image's degradation: noise and blur.
DEGREES = 2


def image_tiles(frame: Frame) -> Iterator[dict[str, np.ndarray]]:
    """Tiles of the padded stage-1 image (h, w, 3), with the mask (h, w, 1)."""
    grid = frame.grid("encode")
    for start in grid.starts:
        yield {"image": frame.clean_tile(start, grid.size), "mask": frame.mask_tile(start, grid.size)}


def drawn_tiles(executor: Executor, variant: int, frame: Frame) -> Iterator[dict[str, np.ndarray]]:
    """`image_tiles` with noise (h/f, w/f, c) for the posterior, from the image's key and the tile's number, and, if
    the networks need it, the image's degradation (n,)."""
    grid, f = frame.grid("encode"), executor.preset.vae.downsample
    key = image_keys(executor.wanted.options.seed, [frame.request.index], variant)
    shape = (1, grid.size[0] // f, grid.size[1] // f, executor.preset.vae.embed_dim)
    for number, tile in enumerate(image_tiles(frame)):
        given = None if frame.request.noise is None else frame.request.noise[number]
        noise = np.asarray(draw_noise(key, jnp.uint32(number), shape))[0] if given is None else given
        more = {} if frame.degrees is None else {"degrees": frame.degrees}
        yield tile | {"noise": noise} | more


def check_noise(executor: Executor, frame: Frame) -> None:
    """Raise ValueError unless the noise of a request for a one-step restorer fits the encoder's tiles."""
    grid, f = frame.grid("encode"), executor.preset.vae.downsample
    height, width = (side // f for side in grid.size)
    needed = (len(grid.starts), height, width, executor.preset.vae.embed_dim)
    assert frame.request.noise is not None
    if frame.request.noise.shape != needed:
        raise UserError(
            f"noise is {frame.request.noise.shape}; the encoder's tiles of this image need {needed}"
        )


def start_tiles(frame: Frame) -> Iterator[dict[str, np.ndarray]]:
    """Tiles of the padded input, which sampling starts from, with the mask."""
    grid = frame.grid("encode")
    for start in grid.starts:
        yield {"image": frame.start_tile(start, grid.size), "mask": frame.mask_tile(start, grid.size)}


def latent_tile(executor: Executor, z: np.ndarray, start: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The part of a latent (h, w, c) at a tile; `start` and `size` are in pixels of the image."""
    f = executor.preset.vae.downsample
    top, left = start // f
    return z[top : top + size[0] // f, left : left + size[1] // f]
