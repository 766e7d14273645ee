"""Swin transformer blocks (Liu et al. 2021), which SwinIR and SCUNet share."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from diffbir_jax.models.layers import Dense, Layer, LayerNorm, depth_to_space, space_to_depth


class SwinBlock(nn.Module):
    """Window attention and a feed-forward layer, normalised before each (Liu et al. 2021)."""

    heads: int
    window: int
    shift: int
    mlp_ratio: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, h, w, C) -> (B, h, w, C)."""
        # A shift by half a window lets neighbouring windows exchange information in every second block.
        y = jnp.roll(LayerNorm(self.dtype, name="norm1")(x), (-self.shift, -self.shift), (1, 2))
        y = WindowAttention(self.heads, self.window, self.shift, self.dtype, name="attention")(y)
        x = x + jnp.roll(y, (self.shift, self.shift), (1, 2))
        y = LayerNorm(self.dtype, name="norm2")(x)
        y = Dense(self.mlp_ratio * x.shape[-1], dtype=self.dtype, name="fc1")(y)
        return x + Dense(x.shape[-1], dtype=self.dtype, name="fc2")(nn.gelu(y, approximate=False))


class WindowAttention(Layer):
    """Self-attention inside square windows, with a learnt bias per relative position.

    Windows are small, so all scores of a window are held at once. In a rolled image a window can have pixels from
    opposite borders; these must not see each other.
    """

    heads: int
    window: int
    shift: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, h, w, C) -> (B, h, w, C)."""
        batch, height, width, channels = x.shape
        side, heads = self.window, self.heads
        rows, columns = height // side, width // side
        x = space_to_depth(x, side).reshape(batch, rows * columns, side**2, channels)
        qkv = Dense(3 * channels, dtype=self.dtype, name="qkv")(x)
        q, k, v = jnp.moveaxis(qkv.reshape(*x.shape[:3], 3, heads, channels // heads), 3, 0)
        scale = (channels // heads) ** -0.5
        scores = jnp.einsum("bwqhd,bwkhd->bwhqk", q * scale, k, preferred_element_type=jnp.float32)
        scores = scores + self._position_bias()[None, None]
        if self.shift:
            apart = jnp.asarray(_regions(height, width, side, self.shift))
            apart = apart[:, :, None] != apart[:, None, :]
            # -100 as in the reference: finite, and exp(-100) is 0 beside any other weight.
            scores = scores + jnp.where(apart, -100.0, 0.0)[None, :, None]
        weights = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
        y = jnp.einsum("bwhqk,bwkhd->bwqhd", weights, v).reshape(x.shape)
        y = Dense(channels, dtype=self.dtype, name="proj")(y)
        return depth_to_space(y.reshape(batch, rows, columns, -1), side)

    def _position_bias(self) -> Array:
        """(heads, window^2, window^2) bias, looked up by the offset between query and key."""
        side = self.window
        init = nn.initializers.truncated_normal(0.02)
        table = self.param("relative_position_bias", init, ((2 * side - 1) ** 2, self.heads))
        position = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), -1).reshape(-1, 2)
        # Offsets start at 0 to index the table, whose rows are (row offset, column offset).
        offset = position[:, None] - position[None] + side - 1
        table = table.astype(jnp.float32)
        return table[offset[..., 0] * (2 * side - 1) + offset[..., 1]].transpose(2, 0, 1)


def _regions(height: int, width: int, window: int, shift: int) -> np.ndarray:
    """(windows, window^2) labels of a rolled image's pixels: equal for pixels that were neighbours before the roll."""

    def bands(length: int) -> np.ndarray:
        position = np.arange(length)
        return (position >= length - window).astype(np.int32) + (position >= length - shift)

    labels = 3 * bands(height)[:, None] + bands(width)[None]
    blocks = labels.reshape(height // window, window, width // window, window)
    return blocks.transpose(0, 2, 1, 3).reshape(-1, window**2)
