"""What a caller wants of every image, and what the caller gets."""

import io
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from diffbir_jax.imaging.bytes import to_depth
from diffbir_jax.imaging.canvas import from_depth
from diffbir_jax.restoration.generator import Context
from diffbir_jax.sampling.options import Options

NOTHING = np.zeros((0, 0, 3), np.uint8)


class Restored(NamedTuple):
    """A restored image and what it came from, (H, W, 3) RGB of the output size each, in the input's dtype.

    Attributes:
        image: the result.
        stage1: the restoration module's output; without pixels if it was not to be kept.
        upscaled: the input, enlarged by Pillow's bicubic filter; without pixels likewise.
        fidelity: how far guidance holds each pixel to stage 1, (H, W) uint8, 255 is 1; None unless asked for.
    """

    image: np.ndarray
    stage1: np.ndarray = NOTHING
    upscaled: np.ndarray = NOTHING
    fidelity: np.ndarray | None = None

    def to_pil(self) -> Image.Image:
        """The result as Pillow's image, with 8 bits per channel."""
        return Image.fromarray(to_depth(from_depth(self.image), np.uint8))

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        return f"Restored({width}x{height}, {self.image.dtype})"

    def _repr_png_(self) -> bytes:
        """The result as notebooks show it."""
        file = io.BytesIO()
        self.to_pil().save(file, "PNG")
        return file.getvalue()


class Outcome(NamedTuple):
    """What became of a request.

    Attributes:
        position: of the request, counted from 0.
        results: one per variant; none if it failed.
        error: why it failed, or None.
        about: what the restorer tells besides, such as reports of faces; None: nothing.
    """

    position: int
    results: tuple[Restored, ...] = ()
    error: Exception | None = None
    about: Any = None

    def all(self) -> tuple[Restored, ...]:
        """The results; raises the error if there is one."""
        if self.error is not None:
            raise self.error
        return self.results


# The stages in words.
STAGE_NAMES = {"rm": "stage 1", "encode": "encoder", "sample": "sampling", "decode": "decoder"}


class Progress(NamedTuple):
    """How far a pack of images is in one of its stages.

    Attributes:
        stage: "rm", "encode", "sample" or "decode".
        done: tiles that are computed; sampling computes all tiles in one call.
        total: tiles of the pack in this stage.
        pixels: of a tile.
    """

    stage: str
    done: int
    total: int
    pixels: int


class Wanted(NamedTuple):
    """What a caller wants of every image; see `Restorer.restore_many`."""

    options: Options
    count: int = 1
    keep: bool = True
    with_fidelity: bool = False
    stage1_only: bool = False
    context: Context | None = None
    listen: Callable[[Progress], None] | None = None
