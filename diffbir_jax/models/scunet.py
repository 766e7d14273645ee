"""SCUNet (Zhang et al. 2022), the restoration module of DiffBIR v2 for denoising."""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from diffbir_jax.models.layers import Dense, PlainConv, depth_to_space, space_to_depth
from diffbir_jax.models.swin import SwinBlock


@dataclass(frozen=True)
class SCUNetConfig:
    """Sizes of a `SCUNet`; the defaults are those of its published checkpoints.

    Attributes:
        dim: channels at full resolution; every level below has twice as many.
        depths: blocks of the three encoder levels, the body and the three decoder levels; every second block shifts its
            windows.
        head_dim: channels of an attention head; it divides `dim / 2`.
        window: side of the attention windows.
    """

    dim: int = 64
    depths: tuple[int, int, int, int, int, int, int] = (4, 4, 4, 4, 4, 4, 4)
    head_dim: int = 32
    window: int = 8

    @property
    def multiple(self) -> int:
        """Sides of the input are multiples of this; the network pads."""
        return 1

    @property
    def scale(self) -> int:
        """Output side / input side."""
        return 1


class SCUNet(nn.Module):
    """Degraded image to clean image of the same size: a U-Net of blocks that are half convolution, half Swin."""

    config: SCUNetConfig = SCUNetConfig()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, lq: Array) -> Array:
        """Restore.

        Args:
            lq: (B, H, W, 3) in [0, 1] of any size.

        Returns:
            float32 (B, H, W, 3), about [0, 1].
        """
        height, width = lq.shape[1:3]
        # Windows must tile the coarsest of four levels.
        side = 8 * self.config.window
        x = jnp.pad(lq, ((0, 0), (0, -height % side), (0, -width % side), (0, 0)), mode="edge")
        dim = self.config.dim
        x = self._conv(dim, "conv_first")(x)
        skips = [x]
        for level in range(3):
            x = self._blocks(x, level, f"down_{level}")
            x = self._dense(2 * x.shape[-1], f"down_{level}_downsample")(space_to_depth(x, 2))
            skips.append(x)
        x = self._blocks(x, 3, "body")
        for level in (2, 1, 0):
            # Skips are added, not concatenated; twice the channels become 2x2 pixels of half as many.
            x = self._dense(2 * x.shape[-1], f"up_{level}_upsample")(x + skips.pop())
            x = self._blocks(depth_to_space(x, 2), 6 - level, f"up_{level}")
        x = self._conv(3, "conv_last")(x + skips.pop())
        return x[:, :height, :width].astype(jnp.float32)

    def _blocks(self, x: Array, stage: int, name: str) -> Array:
        for i in range(self.config.depths[stage]):
            shift = self.config.window // 2 * (i % 2)
            x = SwinConvBlock(self.config, shift, self.dtype, name=f"{name}_block_{i}")(x)
        return x

    def _conv(self, features: int, name: str) -> PlainConv:
        return PlainConv(features, (3, 3), use_bias=False, dtype=self.dtype, name=name)

    def _dense(self, features: int, name: str) -> Dense:
        """A 2x2 (transposed) convolution of stride 2 is a dense layer on blocks of 2x2 pixels."""
        return Dense(features, use_bias=False, dtype=self.dtype, name=name)


class SwinConvBlock(nn.Module):
    """Half of the channels pass two convolutions, the other half a Swin block; both are mixed before and after."""

    config: SCUNetConfig
    shift: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, h, w, C) -> (B, h, w, C)."""
        channels, config = x.shape[-1], self.config
        # Convolutions model near structure and attention far structure; each sees half of the channels.
        near, far = jnp.split(Dense(channels, dtype=self.dtype, name="mix_in")(x), 2, axis=-1)
        y = nn.relu(self._conv(channels // 2, "conv1")(near))
        near = near + self._conv(channels // 2, "conv2")(y)
        heads = channels // 2 // config.head_dim
        far = SwinBlock(heads, config.window, self.shift, 4, self.dtype, name="swin")(far)
        y = jnp.concatenate([near, far], axis=-1)
        return x + Dense(channels, dtype=self.dtype, name="mix_out")(y)

    def _conv(self, features: int, name: str) -> PlainConv:
        return PlainConv(features, (3, 3), use_bias=False, dtype=self.dtype, name=name)
