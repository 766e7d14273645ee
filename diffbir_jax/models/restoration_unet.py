"""The restoration module of the `tiny` preset: a plain residual U-Net on unshuffled pixels.

A CPU trains convolutions fastest if they are wide at low resolution: these run at most of the speed of a matrix
product. docs/tiny.md has the measurements behind the other choices.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jax.typing import DTypeLike

from diffbir_jax.models.layers import Conv, LayerNorm, conv


@dataclass(frozen=True)
class RestorationUNetConfig:
    """Shape of a `RestorationUNet`.

    Attributes:
        unshuffle: side of the pixel blocks moved into channels before the first convolution (pixels).
        channels: width of each level, the finest first; each level has half the side of the one before.
        blocks: residual blocks in the encoder of each level, the coarsest level, and the decoders in reverse order:
            one number fewer than twice the levels.

    Raises:
        ValueError: the number of blocks does not fit that of the levels.
    """

    unshuffle: int = 4
    channels: tuple[int, ...] = (72, 144)
    blocks: tuple[int, ...] = (3, 4, 3)

    def __post_init__(self) -> None:
        """Check that blocks and levels fit."""
        if len(self.blocks) != 2 * len(self.channels) - 1:
            raise ValueError(
                f"{len(self.blocks)} numbers of blocks for {len(self.channels)} levels; "
                f"{2 * len(self.channels) - 1} are needed: encoders, the coarsest level, decoders"
            )

    @property
    def multiple(self) -> int:
        """Input height and width must be multiples of this many pixels."""
        return self.unshuffle * 2 ** (len(self.channels) - 1)

    @property
    def scale(self) -> int:
        """Output side / input side."""
        return 1


# Typical size of the residual that degradation removes, so that weights and gradients are of order one.
RESIDUAL_SCALE = 0.1
# Side of the window of the local mean, in unshuffled blocks.
WINDOW = 5


def local_mean(x: jax.Array) -> jax.Array:
    """(B, H, W, C) -> mean over the part inside x of a window around each place, of the same shape.

    This equals `nn.avg_pool` without padding in the count. To count, that function sums ones over the whole image; XLA
    does this at compile time, which takes seconds for a large image.
    """
    total = nn.pooling.pool(x, 0.0, jax.lax.add, (WINDOW, WINDOW), (1, 1), "SAME")
    rows, columns = (jnp.asarray(_places_in_window(side), x.dtype) for side in x.shape[1:3])
    return total / (rows[None, :, None, None] * columns[None, None, :, None])


def _places_in_window(side: int) -> np.ndarray:
    """For each place on a line of `side` places, the number of places of its window that are on the line."""
    before, reach = np.arange(side), WINDOW // 2
    return 1 + np.minimum(before, reach) + np.minimum(before[::-1], reach)


def local_contrast(image: jax.Array, unshuffle: int) -> jax.Array:
    """Split an image into its deviation from the local mean and that mean.

    Args:
        image: (B, H, W, 3) in [0, 1].
        unshuffle: side of the pixel blocks that become channels.

    Returns:
        (B, H / unshuffle, W / unshuffle, 3 unshuffle^2 + 3), values of order one.
    """
    x = rearrange(image, "b (h p) (w q) c -> b h w (p q) c", p=unshuffle, q=unshuffle)
    mean = local_mean(x.mean(axis=3))
    detail = rearrange(x - mean[:, :, :, None], "b h w n c -> b h w (n c)")
    # The factors bring both parts to about unit size: detail in photos is small beside its mean.
    return jnp.concatenate([8.0 * detail, 2.0 * mean - 1.0], axis=-1)


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(norm(x)))), normalised over channels as in NAFNet (Chen et al., 2022)."""

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, C) -> (B, H, W, C)."""
        h = LayerNorm(self.dtype, name="norm")(x)
        h = nn.silu(conv(self.features, name="conv1", dtype=self.dtype)(h))
        # A small start keeps the untrained block near the identity.
        small = nn.initializers.variance_scaling(0.05, "fan_in", "normal")
        return x + Conv(self.features, 3, 1, (1, 1), small, self.dtype, name="conv2")(h)


class RestorationUNet(nn.Module):
    """Degradation removal by a U-Net that predicts the residual to its input.

    The pixel unshuffle follows Real-ESRGAN (Wang et al., 2021). The difference between noise and detail is small beside
    the local mean, so the mean is subtracted first.
    """

    config: RestorationUNetConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, lq: jax.Array) -> jax.Array:
        """Restore `lq`.

        Args:
            lq: (B, H, W, 3) in [0, 1]; H and W multiples of `config.multiple`.

        Returns:
            (B, H, W, 3) float32, in about [0, 1].

        Raises:
            ValueError: if H or W is not a multiple of `config.multiple`.
        """
        cfg = self.config
        if lq.shape[1] % cfg.multiple or lq.shape[2] % cfg.multiple:
            size = f"{lq.shape[1]}x{lq.shape[2]}"
            raise ValueError(f"image is {size}; pad both sides to multiples of {cfg.multiple}")
        pixels = local_contrast(lq, cfg.unshuffle)
        x = self._level(conv(cfg.channels[0], name="conv_in", dtype=self.dtype)(pixels), 0)
        # With zero weights the untrained module returns its input.
        x = conv(3 * cfg.unshuffle**2, zero=True, name="conv_out", dtype=self.dtype)(x)
        x = rearrange(x, "b h w (p q c) -> b (h p) (w q) c", p=cfg.unshuffle, q=cfg.unshuffle)
        return lq.astype(jnp.float32) + RESIDUAL_SCALE * x.astype(jnp.float32)

    def _level(self, x: jax.Array, level: int) -> jax.Array:
        """Encoder of a level, all coarser levels, its decoder: (B, H, W, C) -> (B, H, W, C)."""
        channels, blocks = self.config.channels, self.config.blocks
        if level == len(channels) - 1:
            return self._blocks(x, level, "middle", blocks[level])
        # The finest level's names have no number: files of networks with two levels keep theirs.
        prefix = f"level{level}_" if level else ""
        skip = self._blocks(x, level, f"{prefix}encoder", blocks[level])
        wider = conv(channels[level + 1], 2, stride=2, padding=(0, 0), name=f"{prefix}down", dtype=self.dtype)
        x = self._level(wider(skip), level + 1)
        x = conv(4 * channels[level], 1, name=f"{prefix}up", dtype=self.dtype)(x)
        # The skip is added, not concatenated: the level then has half as many input channels.
        x = rearrange(x, "b h w (p q c) -> b (h p) (w q) c", p=2, q=2) + skip
        return self._blocks(x, level, f"{prefix}decoder", blocks[-1 - level])

    def _blocks(self, x: jax.Array, level: int, name: str, count: int) -> jax.Array:
        for i in range(count):
            x = ResidualBlock(self.config.channels[level], self.dtype, name=f"{name}_{i}")(x)
        return x
