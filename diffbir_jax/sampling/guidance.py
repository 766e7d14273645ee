"""Region-adaptive restoration guidance (DiffBIR, section 3.3): pull the latent towards the stage-1 image.

Flat regions get a strong pull, because the stage-1 image is right there. Textured regions are left to the generator.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffbir_jax.console.errors import UserError
from diffbir_jax.files.trees import Tree
from diffbir_jax.imaging.resize import resize
from diffbir_jax.imaging.tiling import Tiles, batches, cut, gaussian_weights

Loss = Literal["mse", "w_mse", "paper"]
Space = Literal["rgb", "latent"]


class GuidanceInputs(NamedTuple):
    """The inputs of guidance during sampling; made by `prepare` of the guidance.

    Attributes:
        params: parameters of the decoder.
        target: (B, H, W, 3) in [-1, 1], the stage-1 image; in latent space (B, h, w, c), its latents.
        weight: (B, H, W, 1), weight of the squared difference; in latent space (B, h, w, 1).
        repeats: int32 scalar, gradient steps per prediction.
        tiles: positions of the tiles in the target, which the decoder sees one batch at a time; None decodes whole.
    """

    params: Tree
    target: Array | np.ndarray
    weight: Array | np.ndarray
    repeats: Array
    tiles: Tiles | None = None


def fidelity_weight(target: Array) -> Array:
    """W = 1 - G: near 1 in flat regions, near 0 at edges and in texture.

    G is the Sobel gradient magnitude of the luma in [0, 1], summed over 2x2 blocks, through tanh.

    Args:
        target: (B, H, W, 3) RGB in [-1, 1], H and W even.

    Returns:
        (B, H, W, 1) in [0, 1].

    Raises:
        ValueError: H or W is odd.
    """
    batch, height, width, _ = target.shape
    if height % 2 or width % 2:
        raise ValueError(f"the guidance target is {height}x{width}; pad it to even sides")
    luma = jnp.einsum("bhwc,c->bhw", (target + 1) / 2, jnp.array([0.2989, 0.5870, 0.1140], target.dtype))
    # Repeated edges: a border of zeros would look like a strong edge and get no guidance.
    luma = jnp.pad(luma, ((0, 0), (1, 1), (1, 1)), mode="edge")
    smooth_rows = luma[:, :-2] + 2 * luma[:, 1:-1] + luma[:, 2:]
    smooth_columns = luma[:, :, :-2] + 2 * luma[:, :, 1:-1] + luma[:, :, 2:]
    magnitude = jnp.hypot(
        smooth_rows[:, :, 2:] - smooth_rows[:, :, :-2], smooth_columns[:, 2:] - smooth_columns[:, :-2]
    )
    blocks = magnitude.reshape(batch, height // 2, 2, width // 2, 2).sum((2, 4))
    return 1 - jnp.tanh(jnp.repeat(jnp.repeat(blocks, 2, axis=1), 2, axis=2))[..., None]


def held(loss: Loss, target: Array, mask: Array | None = None) -> Array:
    """How far each pixel is held to the target, (B, H, W, 1): `fidelity_weight` times the mask, for 'mse' the mask.

    Args:
        loss: see `Guidance`.
        target: (B, H, W, 3) in [-1, 1], H and W even.
        mask: (B or 1, H, W, 1), at least 0; None is 1 everywhere.
    """
    weight = jnp.ones_like(target[..., :1]) if loss == "mse" else fidelity_weight(target)
    return weight if mask is None else weight * mask


def pixel_weight(loss: Loss, target: Array, mask: Array | None = None) -> Array:
    """The weight of the squared difference of pixels, (B, H, W, 1); arguments as in `held`."""
    weight = held(loss, target, mask)
    # The paper has W inside the norm, so the squared difference gets W^2.
    return jnp.square(weight) if loss == "paper" else weight


def latent_weight(loss: Loss, target: Array, size: tuple[int, int], mask: Array | None = None) -> Array:
    """The same of latents of `size` = (h, w): the means over their pixels, (B, h, w, 1)."""
    return resize(pixel_weight(loss, target, mask), size, "area")


class Guidance(ABC):
    """A gradient step on the predicted clean latent: `PixelGuidance` or `LatentGuidance`.

    Attributes:
        loss: the loss is the mean over H, W, C of weight * (prediction - target)^2, summed over the batch. The weight
            is 1 for 'mse', W for 'w_mse' (the reference implementation), W^2 for 'paper' (W inside the norm). W is
            `fidelity_weight` times the mask, if there is one (for 'mse' the mask alone).

    Raises:
        ValueError: unknown loss.
    """

    loss: Loss

    def __post_init__(self):
        if self.loss not in get_args(Loss):
            raise UserError(f"guidance loss is {self.loss!r}; use one of {get_args(Loss)}")

    @abstractmethod
    def value(self, inputs: GuidanceInputs, x0: Array) -> Array:
        """The loss at the latent x0 (B, h, w, c), float32 scalar."""

    def __call__(self, inputs: GuidanceInputs, x0: Array, strength: Array) -> Array:
        """Return x0 - strength * gradient of the loss, applied `inputs.repeats` times.

        Args:
            inputs: decoder parameters, target, weight and repeats.
            x0: (B, h, w, c) predicted clean latents.
            strength: scalar step length; at 0 neither decoder nor gradient is computed.
        """

        def step(_: Array, x0: Array) -> Array:
            return x0 - strength * jax.grad(self.value, argnums=1)(inputs, x0)

        def guided(x0: Array) -> Array:
            # A loop with a dynamic count: another number of repeats does not recompile.
            return jax.lax.fori_loop(0, inputs.repeats, step, x0)

        return jax.lax.cond(strength != 0, guided, lambda x0: x0, x0)


@dataclass(frozen=True)
class LatentGuidance(Guidance):
    """Compares latents: all components of a latent get the same pull, and the cost is negligible."""

    loss: Loss = "w_mse"

    def prepare(
        self, target: Array, condition: Array, mask: Array | None = None, repeats: int = 1
    ) -> GuidanceInputs:
        """Compute the weight once, before the scan.

        Args:
            target: (B, H, W, 3) in [-1, 1], H and W even.
            condition: (B, h, w, c), latents of the target as the sampler sees them (scaled).
            mask: (B or 1, H, W, 1), at least 0, a factor on W: at 0 there is no guidance.
            repeats: gradient steps per prediction, each of the full length.
        """
        weight = latent_weight(self.loss, target, (condition.shape[1], condition.shape[2]), mask)
        return GuidanceInputs(None, condition, weight, jnp.int32(repeats))

    def value(self, inputs: GuidanceInputs, x0: Array) -> Array:
        """The loss at the latent x0 (B, h, w, c), float32 scalar."""
        return _weighted(inputs, x0)


@dataclass(frozen=True)
class PixelGuidance(Guidance):
    """Compares images, through the decoder: brightness moves first, fine detail least.

    Attributes:
        decode: (params, z0) -> image; z0 (B, h, w, c) as the sampler sees it (scaled),
            image (B, H, W, 3) in [-1, 1]. Its activations are held for one backward pass at a time, for any number of
            steps; a decoder that recomputes its blocks (remat) holds fewer.
        tile: height and width of a tile in latent pixels, used with `GuidanceInputs.tiles`.
        batch: tiles that are decoded at once.
    """

    decode: Callable[[Tree, Array], Array]
    loss: Loss = "w_mse"
    tile: tuple[int, int] = (0, 0)
    batch: int = 1

    def prepare(
        self, params: Tree, target: Array, mask: Array | None = None, repeats: int = 1
    ) -> GuidanceInputs:
        """Compute the weight once, before the scan; `params` are the decoder's, others as of `LatentGuidance`."""
        return GuidanceInputs(params, target, pixel_weight(self.loss, target, mask), jnp.int32(repeats))

    def value(self, inputs: GuidanceInputs, x0: Array) -> Array:
        """The loss at the latent x0 (B, h, w, c), float32 scalar.

        In tiles, each pixel's squared error is the weighted mean over the tiles that show it. This is the same if the
        tiles agree. Every tile has its own part of the gradient, so one tile is held at a time.
        """
        if inputs.tiles is None:
            return _weighted(inputs, self.decode(inputs.params, x0))
        return self._tiled_value(inputs, inputs.tiles, x0)

    def _tiled_value(self, inputs: GuidanceInputs, tiles: Tiles, x0: Array) -> Array:
        height, width, channels = inputs.target.shape[1:]
        scale = height // x0.shape[1]
        size = (self.tile[0] * scale, self.tile[1] * scale)
        shares = jnp.asarray(gaussian_weights(*size), jnp.float32)[None, :, :, None]
        # Weights of overlapping tiles add up to this sum, which separates into rows and columns.
        sums = jnp.asarray(tiles.rows)[:, :, None, None] * jnp.asarray(tiles.columns)[:, None, :, None]

        @jax.checkpoint
        def share(image: Array, start: Array, used: Array) -> Array:
            decoded = self.decode(inputs.params, cut(x0, image, start // scale, self.tile))
            weight = cut(inputs.weight, image, start, size) * shares / cut(sums, image, start, size)
            squares = jnp.square(decoded - cut(inputs.target, image, start, size))
            return jnp.sum(weight * squares * used[:, None, None, None])

        def body(total: Array, group: tuple[Array, Array, Array]) -> tuple[Array, None]:
            # Batches that only fill up the fixed shape are skipped, not decoded.
            return total + jax.lax.cond(group[2].sum() > 0, share, lambda *_: jnp.float32(0), *group), None

        total, _ = jax.lax.scan(body, jnp.float32(0), batches(tiles, self.batch))
        return total / (height * width * channels)


def _weighted(inputs: GuidanceInputs, prediction: Array) -> Array:
    """The mean of each image's weighted squared differences, summed over the batch."""
    difference = prediction - inputs.target
    return jnp.sum(jnp.mean(inputs.weight * difference**2, axis=(1, 2, 3)))
