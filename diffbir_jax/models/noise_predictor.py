"""The noise predictor of InvSR (Yue et al. 2024): from a low-resolution image to the noise sampling starts from."""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from diffbir_jax.models.attention import attention
from diffbir_jax.models.layers import Dense, GroupNorm, conv, timestep_embedding
from diffbir_jax.models.unet import ResBlock

# Of all group normalisations.
EPSILON = 1e-6


@dataclass(frozen=True)
class NoisePredictorConfig:
    """Sizes of a `NoisePredictor`; the defaults are the published ones.

    Attributes:
        widths: channels of each level; all levels except the last halve the resolution.
        layers: residual blocks with attention per level.
        head_dim: channels per attention head.
        time_dim: features of the timestep's embedding.
        wave_dim: features of its sines and cosines.
        channels: of the noise.
    """

    widths: tuple[int, ...] = (256, 512)
    layers: int = 3
    head_dim: int = 64
    time_dim: int = 512
    wave_dim: int = 256
    channels: int = 4


class NoisePredictor(nn.Module):
    """Mean and log-variance of the noise at half the resolution of the input, which is that of the latent for x4."""

    config: NoisePredictorConfig = NoisePredictorConfig()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image: Array, t: Array) -> tuple[Array, Array]:
        """(B, H, W, 3) in [-1, 1], (B,) timesteps -> mean and log-variance, float32 (B, H/2, W/2, channels)."""
        config, dtype = self.config, self.dtype
        embedding = Dense(config.time_dim, dtype=dtype, name="time_1")(timestep_embedding(t, config.wave_dim))
        embedding = Dense(config.time_dim, dtype=dtype, name="time_2")(nn.silu(embedding))
        x = conv(config.widths[0], name="conv_in", dtype=dtype)(image)
        for level, width in enumerate(config.widths):
            for i in range(config.layers):
                x = ResBlock(width, dtype, epsilon=EPSILON, name=f"down_{level}_block_{i}")(x, embedding)
                x = PixelAttention(config.head_dim, dtype, name=f"down_{level}_attention_{i}")(x)
            if level + 1 < len(config.widths):
                # diffusers' encoders pad here only after the last row and column.
                name = f"down_{level}_downsample"
                x = conv(width, stride=2, padding=(0, 1), name=name, dtype=dtype)(x)
        x = ResBlock(config.widths[-1], dtype, epsilon=EPSILON, name="mid_block_0")(x, embedding)
        x = PixelAttention(config.head_dim, dtype, name="mid_attention")(x)
        x = ResBlock(config.widths[-1], dtype, epsilon=EPSILON, name="mid_block_1")(x, embedding)
        x = nn.silu(GroupNorm(EPSILON, dtype, name="norm_out")(x))
        x = conv(2 * config.channels, name="conv_out", dtype=dtype)(x).astype(jnp.float32)
        mean, logvar = jnp.split(x, 2, axis=-1)
        return mean, jnp.clip(logvar, -30.0, 20.0)


class PixelAttention(nn.Module):
    """Self-attention over all pixels, normalised before, with a residual."""

    head_dim: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, h, w, C) -> (B, h, w, C)."""
        batch, height, width, channels = x.shape
        y = GroupNorm(EPSILON, self.dtype, name="norm")(x).reshape(batch, height * width, channels)
        heads = (batch, height * width, -1, self.head_dim)
        q, k, v = (Dense(channels, dtype=self.dtype, name=name)(y).reshape(heads) for name in "qkv")
        y = attention(q, k, v).reshape(batch, height * width, channels)
        return x + Dense(channels, dtype=self.dtype, name="out")(y).reshape(x.shape)
