"""Layers that the networks share: normalisation, convolutions, timestep embedding, pixel rearrangement."""

import math
from collections.abc import Callable
from typing import Literal, cast

import flax.linen as nn
import jax.numpy as jnp
from flax.errors import ScopeParamShapeError
from jax import Array, lax
from jax.typing import DTypeLike

from diffbir_jax.files.trees import Tree
from diffbir_jax.models.convolution import convolve, upsample_convolve, upsample_nearest
from diffbir_jax.models.platform import only_shapes

Norm = Literal["group", "layer"]


class Layer(nn.Module):
    """A module with parameters of its own.

    Flax traces the initialiser of every parameter in each call, to compare shapes: a fifth of the time that tracing a
    network takes. Here the shape that the initialiser is given is compared.
    """

    def param(self, name: str, init_fn: Callable[..., Array], *init_args: Tree, **more: Tree) -> Array:
        """As `nn.Module.param`, for initialisers whose first argument is the shape and whose second is the dtype."""
        if self.is_initializing() and only_shapes():
            value = jnp.zeros(init_args[0], *init_args[1:2])
            self.put_variable("params", name, value)
            return value
        if self.is_initializing() or not self.has_variable("params", name):
            # Flax allows arrays in boxes; no initialiser here makes one.
            return cast(Array, super().param(name, init_fn, *init_args, **more))
        value, shape = self.get_variable("params", name), tuple(init_args[0])
        if value.shape != shape:
            raise ScopeParamShapeError(name, "/".join(self.path), value.shape, shape)
        return value


class Dense(Layer, nn.Dense):
    """A product with a matrix, over the last axis."""


class PlainConv(Layer, nn.Conv):
    """A convolution as Flax computes it; `conv` has the faster ones."""


class GroupNorm(Layer):
    """Group normalisation (Wu and He 2018) with float32 statistics.

    The group count is the largest divisor of 32 that also divides the channel count; it is 32 for every
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
        if only_shapes():
            return x.astype(self.dtype)
        # The greatest common divisor is the largest divisor of 32 that divides the channels.
        mean, variance = group_moments(*self.moments(x), math.gcd(32, channels))
        y = x.astype(jnp.float32) - _spread(mean, x.ndim)
        # Scale and 1/deviation are merged per channel first: one multiplication per pixel, not two.
        y = y * _spread(lax.rsqrt(variance + self.epsilon) * scale[None], x.ndim) + _spread(
            bias[None], x.ndim
        )
        return y.astype(self.dtype)

    def moments(self, x: Array) -> tuple[Array, Array]:
        """Mean and variance (B, C) of each channel of (B, ..., C), over its pixels, float32.

        It is a separate method so that other statistics can replace it (`shared_norms`).
        """
        # Per-channel moments first, because XLA reduces whole rows of channels fast on CPUs.
        pixels = tuple(range(1, x.ndim - 1))
        y = x.astype(jnp.float32)
        mean = y.mean(pixels)
        return mean, jnp.square(y - _spread(mean, x.ndim)).mean(pixels)


def group_moments(mean: Array, variance: Array, groups: int) -> tuple[Array, Array]:
    """Means and variances (B, C) of channels -> those of their groups, at each channel's place."""
    centre = _group_mean(mean, groups)
    return centre, _group_mean(variance + jnp.square(mean - centre), groups)


def _spread(x: Array, ndim: int) -> Array:
    """(B, C) -> (B, 1, ..., 1, C) with `ndim` axes."""
    return x.reshape(x.shape[0], *(1,) * (ndim - 2), x.shape[1])


def _group_mean(x: Array, groups: int) -> Array:
    """(B, C) -> (B, C), each channel replaced by its group's mean."""
    means = x.reshape(x.shape[0], groups, -1).mean(axis=2, keepdims=True)
    return jnp.broadcast_to(means, (x.shape[0], groups, x.shape[1] // groups)).reshape(x.shape)


class LayerNorm(Layer):
    """Layer normalisation (Ba et al. 2016) with float32 statistics."""

    dtype: DTypeLike = jnp.float32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(..., C) -> (..., C) in the compute dtype."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        y = x.astype(jnp.float32)
        y = y - y.mean(axis=-1, keepdims=True)
        y = y * lax.rsqrt(jnp.square(y).mean(axis=-1, keepdims=True) + self.epsilon)
        scale, bias = (v.reshape((1,) * (x.ndim - 1) + (-1,)) for v in (scale, bias))
        return (y * scale + bias).astype(self.dtype)


def norm(kind: Norm, *, name: str, dtype: DTypeLike, epsilon: float = 1e-5) -> GroupNorm | LayerNorm:
    """The normalisation of a convolutional block.

    Args:
        kind: "group", over the whole image, as in the published networks; or "layer", over the channels of each pixel:
            then a pixel depends only on its surroundings, and tiles need no statistics of the whole image.
        name: name of the module.
        dtype: compute dtype.
        epsilon: epsilon of the group normalisation; layer normalisation always uses 1e-5.
    """
    if kind == "layer":
        return LayerNorm(dtype, name=name)
    return GroupNorm(epsilon, dtype, name=name)


class Conv(Layer):
    """A square 2-D convolution with a bias; see `conv`."""

    features: int
    size: int
    stride: int
    padding: tuple[int, int]
    kernel_init: nn.initializers.Initializer
    dtype: DTypeLike
    upsample: bool = False

    def __call__(self, x: Array, sides: tuple[int, int] | None = None) -> Array:
        """(B, H, W, C) -> (B, h, w, features) in the compute dtype.

        With `upsample`, `sides` are those of the repeated image: twice the input's (the default), or one pixel less.
        """
        kernel, bias = self.weights(x.shape[-1])
        return self.convolved(x.astype(self.dtype), kernel, sides) + bias

    def convolved(self, x: Array, kernel: Array, sides: tuple[int, int] | None = None) -> Array:
        """Convolve with another kernel (size, size, C, O), as this layer does; no bias."""
        if not self.upsample:
            return convolve(x, kernel, self.stride, self.padding)
        if sides is None or sides == (2 * x.shape[1], 2 * x.shape[2]):
            return upsample_convolve(x, kernel)
        # Cut before the convolution, which sees zeros beyond the border.
        return convolve(upsample_nearest(x)[:, : sides[0], : sides[1]], kernel)

    @nn.compact
    def weights(self, channels: int) -> tuple[Array, Array]:
        """Kernel (size, size, channels, features) and bias (1, 1, 1, features), in the compute dtype."""
        kernel = self.param("kernel", self.kernel_init, (self.size, self.size, channels, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return kernel.astype(self.dtype), bias.astype(self.dtype).reshape(1, 1, 1, -1)


def conv(
    features: int,
    size: int = 3,
    *,
    name: str,
    stride: int = 1,
    padding: tuple[int, int] | None = None,
    zero: bool = False,
    upsample: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> Conv:
    """A square 2-D convolution over (B, H, W, C).

    Args:
        features: output channels.
        size: kernel width and height.
        name: name of the submodule.
        stride: step along both axes.
        padding: pixels (before, after) along both axes; by default (size - 1) / 2 on each side.
        zero: start from zero weights, so that the branch that ends with this convolution adds nothing at first.
        upsample: repeat each pixel along both axes first; for `size` 3, `stride` 1 and the default padding.
        dtype: compute dtype; parameters stay float32.
    """
    init = nn.initializers.zeros if zero else nn.initializers.lecun_normal()
    return Conv(features, size, stride, padding or (size // 2, size // 2), init, dtype, upsample, name=name)


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
    # float32 also under bfloat16, which rounds timesteps above 256.
    angles = t.astype(jnp.float32)[:, None] * frequencies[None]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


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


def repeat_batch(x: Array, batch: int) -> Array:
    """(B, ...) -> (batch, ...), a multiple of B: each row is repeated in place, so all copies stay on its device."""
    return x if len(x) == batch else jnp.repeat(x, batch // len(x), axis=0)
