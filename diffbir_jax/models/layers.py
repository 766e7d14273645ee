"""Layers that the networks share: normalisation, convolutions, timestep embedding, pixel rearrangement."""

import math

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike


class GroupNorm(nn.Module):
    """Group normalisation (Wu and He 2018) with float32 statistics.

    The group count is the largest divisor of 32 that also divides the channel count, thus 32 for every
    published network.
    """

    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, ..., C) -> (B, ..., C) in the compute dtype."""
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        groups = math.gcd(32, channels)
        # Per-channel moments first: whole rows of channels are what XLA reduces fast on CPUs.
        pixels = tuple(range(1, x.ndim - 1))
        y = x.astype(jnp.float32)
        y = y - _spread(_group_mean(y.mean(pixels), groups), x.ndim)
        variance = _group_mean(jnp.square(y).mean(pixels), groups)
        y = y * _spread(lax.rsqrt(variance + self.epsilon) * scale[None], x.ndim) + _spread(
            bias[None], x.ndim
        )
        return y.astype(self.dtype)


def _spread(x: Array, ndim: int) -> Array:
    """(B, C) -> (B, 1, ..., 1, C) of `ndim` axes."""
    return x.reshape(x.shape[0], *(1,) * (ndim - 2), x.shape[1])


def _group_mean(x: Array, groups: int) -> Array:
    """(B, C) -> (B, C), each channel replaced by its group's mean."""
    means = x.reshape(x.shape[0], groups, -1).mean(axis=2, keepdims=True)
    return jnp.broadcast_to(means, (x.shape[0], groups, x.shape[1] // groups)).reshape(x.shape)


class LayerNorm(nn.Module):
    """Layer normalisation (Ba et al. 2016) with float32 statistics."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(..., C) -> (..., C) in the compute dtype."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        y = x.astype(jnp.float32)
        y = y - y.mean(axis=-1, keepdims=True)
        y = y * lax.rsqrt(jnp.square(y).mean(axis=-1, keepdims=True) + 1e-5)
        along_last = (1,) * (x.ndim - 1) + (-1,)
        return (y * scale.reshape(along_last) + bias.reshape(along_last)).astype(self.dtype)


def conv(
    features: int,
    size: int = 3,
    *,
    name: str,
    stride: int = 1,
    padding: tuple[int, int] | None = None,
    zero: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> nn.Conv:
    """A square 2-D convolution over (B, H, W, C).

    Args:
        features: output channels.
        size: kernel width and height.
        name: name of the submodule.
        stride: step along both axes.
        padding: pixels (before, after) along both axes; by default (size - 1) / 2 on each side.
        zero: start from zero weights, so that the branch it ends first adds nothing.
        dtype: compute dtype; parameters stay float32.
    """
    pad = padding or (size // 2, size // 2)
    init = nn.initializers.zeros if zero else nn.initializers.lecun_normal()
    return nn.Conv(
        features, (size, size), (stride, stride), (pad, pad), kernel_init=init, dtype=dtype, name=name
    )


def timestep_embedding(t: Array, dim: int, max_period: float = 10000.0) -> Array:
    """Sinusoidal embedding of timesteps, cosines first (Vaswani et al. 2017; Ho et al. 2020).

    Args:
        t: (B,) timesteps, integers or floats, 0..1000 in the published models.
        dim: even number of features.
        max_period: longest period.

    Returns:
        (B, dim) float32.
    """
    half = dim // 2
    frequencies = jnp.exp(jnp.arange(half, dtype=jnp.float32) * (-math.log(max_period) / half))
    angles = t.astype(jnp.float32)[:, None] * frequencies[None]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def upsample_nearest(x: Array, factor: int = 2) -> Array:
    """(B, H, W, C) -> (B, factor H, factor W, C), each pixel repeated."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, factor, width, factor, channels))
    return x.reshape(batch, height * factor, width * factor, channels)


def space_to_depth(x: Array, patch: int) -> Array:
    """(B, H, W, C) -> (B, H/patch, W/patch, patch^2 C); channels are ordered (row, column, C)."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // patch, patch, width // patch, patch, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // patch, width // patch, -1)


def depth_to_space(x: Array, patch: int) -> Array:
    """Inverse of `space_to_depth`: (B, H, W, patch^2 C) -> (B, patch H, patch W, C)."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, patch, patch, channels // patch**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height * patch, width * patch, -1)
