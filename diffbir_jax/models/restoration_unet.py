"""The restoration module of the `tiny` preset: a plain residual U-Net on unshuffled pixels.

Window attention (SwinIR) needs far more steps than a laptop can give; convolutions that are wide at low resolution
train in minutes and run at the speed of a matrix product on a CPU.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn


@dataclass(frozen=True)
class RestorationUNetConfig:
    """Shape of a `RestorationUNet`.

    Attributes:
        unshuffle: side of the pixel blocks moved into channels before the first convolution (pixels).
        channels: width of the fine and of the coarse level.
        blocks: residual blocks in (fine encoder, coarse level, fine decoder).
    """

    unshuffle: int = 4
    channels: tuple[int, int] = (72, 144)
    blocks: tuple[int, int, int] = (3, 4, 3)

    @property
    def multiple(self) -> int:
        """Input height and width must be multiples of this many pixels."""
        return 2 * self.unshuffle


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(x))) without normalisation (as EDSR), the last convolution starting at zero."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, C) -> (B, H, W, C)."""
        h = nn.silu(nn.Conv(self.features, (3, 3), dtype=self.dtype, name="conv1")(x))
        return x + nn.Conv(
            self.features, (3, 3), dtype=self.dtype, kernel_init=nn.initializers.zeros, name="conv2"
        )(h)


class RestorationUNet(nn.Module):
    """Degradation removal by a two-level U-Net that predicts the residual to its input.

    Residual blocks follow EDSR (Lim et al., 2017), the pixel unshuffle follows Real-ESRGAN (Wang et al., 2021).
    """

    config: RestorationUNetConfig
    dtype: Any = jnp.float32

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
        cfg, (fine, coarse) = self.config, self.config.channels
        if lq.shape[1] % cfg.multiple or lq.shape[2] % cfg.multiple:
            size = f"{lq.shape[1]}x{lq.shape[2]}"
            raise ValueError(f"image is {size}; pad both sides to multiples of {cfg.multiple}")
        x = rearrange(lq, "b (h p) (w q) c -> b h w (p q c)", p=cfg.unshuffle, q=cfg.unshuffle)
        x = nn.Conv(fine, (3, 3), dtype=self.dtype, name="conv_in")(x)
        x = skip = self._blocks(x, fine, cfg.blocks[0], "encoder")
        x = nn.Conv(coarse, (2, 2), (2, 2), dtype=self.dtype, name="down")(x)
        x = self._blocks(x, coarse, cfg.blocks[1], "middle")
        x = nn.Conv(4 * fine, (1, 1), dtype=self.dtype, name="up")(x)
        x = rearrange(x, "b h w (p q c) -> b (h p) (w q) c", p=2, q=2) + skip
        x = self._blocks(x, fine, cfg.blocks[2], "decoder")
        # Starting at zero, the untrained module returns its input.
        zero = nn.initializers.zeros
        x = nn.Conv(3 * cfg.unshuffle**2, (3, 3), dtype=self.dtype, kernel_init=zero, name="conv_out")(x)
        x = rearrange(x, "b h w (p q c) -> b (h p) (w q) c", p=cfg.unshuffle, q=cfg.unshuffle)
        return lq.astype(jnp.float32) + x.astype(jnp.float32)

    def _blocks(self, x: jax.Array, features: int, count: int, name: str) -> jax.Array:
        for i in range(count):
            x = ResidualBlock(features, self.dtype, name=f"{name}_{i}")(x)
        return x
