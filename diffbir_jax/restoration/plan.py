"""How images are cut for the stages: few sizes that programs are compiled for, for images of any size."""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from diffbir_jax.console.errors import UserError

# No machine has room for larger numbers of tiles or pixels.
MOST = 2**30
# Most tiles in a batch per device that the planner tries.
BATCH = 16


class StagePlan(NamedTuple):
    """How one stage sees images.

    Attributes:
        tile: sides up to this many pixels are seen whole, longer ones in tiles of this size.
        overlap: pixels that neighbouring tiles share at least.
        batch: most tiles that the network sees at once, on all devices together.
    """

    tile: int
    overlap: int
    batch: int = 1


@dataclass(frozen=True)
class Plan:
    """How all stages see images; what a result depends on beside options, weights and image.

    Attributes:
        rm: stage 1; its sizes are those of the restoration module's input.
        encode: the autoencoder's first half.
        sample: the diffusion model.
        decode: the autoencoder's second half.
        remat: recompute the decoder's blocks in guidance through it: less memory, more time.
        norms: statistics that normalise a tile in the autoencoder. "image": those of the whole image, as if there were
            no tiles; extra passes measure them. "tile": those of the tile, without extra passes.
        devices: how many share a batch.
        pixels: most pixels of a batch on one device; a batch has at least one tile.
    """

    rm: StagePlan
    encode: StagePlan
    sample: StagePlan
    decode: StagePlan
    remat: bool = True
    norms: Literal["image", "tile"] = "image"
    devices: int = 1
    pixels: int = 2**20

    def __post_init__(self) -> None:
        """Check the numbers, which a file may hold; UserError for sizes that no machine has."""
        numbers = [*self.rm, *self.encode, *self.sample, *self.decode, self.devices, self.pixels]
        if not all(0 <= number <= MOST for number in numbers) or not self.devices:
            raise UserError(f"the plan has sizes {numbers}; allowed are 0 to {MOST}, and at least one device")

    def batch_of(self, stage: str, size: tuple[int, int]) -> int:
        """How many tiles of a size in pixels a stage sees at once: a multiple of the devices."""
        each = max(1, self.pixels // (size[0] * size[1]))
        return max(1, min(getattr(self, stage).batch // self.devices, each)) * self.devices

    def with_batch(self, batch: int) -> "Plan":
        """The same with another batch for every stage."""
        return replace(self, **{name: getattr(self, name)._replace(batch=batch) for name in STAGES})

    def on(self, devices: int) -> "Plan":
        """The same for a machine with fewer devices: each keeps its batch, or its memory would not suffice."""
        if devices >= self.devices:
            return self
        batches = {name: max(1, getattr(self, name).batch // self.devices) * devices for name in STAGES}
        stages = {name: getattr(self, name)._replace(batch=batch) for name, batch in batches.items()}
        return replace(self, **stages, devices=devices)


STAGES = ("rm", "encode", "sample", "decode")
# Sides below this are rounded up to halves of an octave, others to eighths. That costs `tiny` 0.03 to 0.06 dB of PSNR
# on images of 136 and 160 pixels. Stage 2 of the published versions sees no images below 512 pixels; for their stage 1
# see `geometry.measure`.
FINE_FROM = 512
# Sides of canvases, in tiles. Only latents of several tiles lie on them, where padding costs next to nothing.
CANVASES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)


def bucket(side: int, multiple: int) -> int:
    """Round a side up to one of few: multiples of `multiple`, 2 per octave below 512 pixels and 8 above."""
    octave = 1 << (side.bit_length() - 1)
    step = max(octave // (2 if side < FINE_FROM else 8), multiple)
    return _up(side, _up(step, multiple))


def fitted(side: int, tile: int, multiple: int) -> tuple[int, int]:
    """How an axis of an image is padded and cut.

    Args:
        side: of the image in pixels.
        tile: what is longer is cut into tiles of this size, a multiple of `multiple`.
        multiple: sides that the network takes are multiples of this.

    Returns:
        side with padding, and size of a tile along it, which is the same unless there are several.
    """
    if side > tile:
        return _up(side, multiple), tile
    whole = min(bucket(side, multiple), tile)
    return whole, whole


def canvas(side: int, tile: int) -> int:
    """Round the side of an image of several tiles up to that of a canvas: 1, 1.5, 2, 3, 4, 6, 8, 12 ... tiles."""
    scale = 1
    while side > 8 * scale * tile:
        scale *= 8
    return next(int(tile * scale * c) for c in CANVASES if side <= tile * scale * c)


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
