"""SwinIR (Liang et al. 2021), DiffBIR's restoration module for faces and for training stage 2."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from diffbir_jax.models.layers import LayerNorm, conv, depth_to_space, space_to_depth, upsample_nearest

# Mean colour of DIV2K, which the published weights expect to be subtracted.
RGB_MEAN = (0.4488, 0.4371, 0.4040)


@dataclass(frozen=True)
class SwinIRConfig:
    """Sizes of a `SwinIR`; the defaults are those of DiffBIR's checkpoints.

    Attributes:
        embed_dim: channels of the transformer.
        num_layers: residual groups of Swin blocks, each closed by a convolution.
        depth: Swin blocks per group; every second one shifts its windows.
        num_heads: attention heads.
        window: side of the attention windows.
        mlp_ratio: width of the feed-forward layers in multiples of `embed_dim`.
        unshuffle: side of the pixel blocks folded into channels at the input; the output undoes it by
            nearest-neighbour upsampling and convolutions. A power of two.
        num_feat: channels of those convolutions.
    """

    embed_dim: int = 180
    num_layers: int = 8
    depth: int = 6
    num_heads: int = 6
    window: int = 8
    mlp_ratio: int = 2
    unshuffle: int = 8
    num_feat: int = 64

    @property
    def multiple(self) -> int:
        """Sides of the input are multiples of it."""
        return self.unshuffle * self.window

    @property
    def upsamplings(self) -> int:
        """How often the output doubles the resolution."""
        return self.unshuffle.bit_length() - 1


class SwinIR(nn.Module):
    """Degraded image to clean image of the same size."""

    config: SwinIRConfig = SwinIRConfig()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, lq: Array) -> Array:
        """Restore.

        Args:
            lq: (B, H, W, 3) in [0, 1]; H and W are multiples of `config.multiple`.

        Returns:
            float32 (B, H, W, 3), about [0, 1].

        Raises:
            ValueError: H or W is not such a multiple.
        """
        config, dtype = self.config, self.dtype
        if lq.shape[1] % config.multiple or lq.shape[2] % config.multiple:
            size = f"{lq.shape[1]}x{lq.shape[2]}"
            raise ValueError(f"image is {size}; pad both sides to multiples of {config.multiple}")
        mean = jnp.asarray(RGB_MEAN, jnp.float32).reshape(1, 1, 1, 3)
        x = space_to_depth(lq - mean, config.unshuffle)
        shallow = conv(config.embed_dim, name="conv_first", dtype=dtype)(x)
        x = LayerNorm(dtype, name="patch_norm")(shallow)
        groups = nn.scan(
            SwinGroup, variable_axes={"params": 0}, split_rngs={"params": True}, length=config.num_layers
        )
        x, _ = groups(config, dtype, name="groups")(x, None)
        x = conv(config.embed_dim, name="conv_after_body", dtype=dtype)(LayerNorm(dtype, name="norm")(x))
        return self._reconstruct(x + shallow) + mean

    def _reconstruct(self, x: Array) -> Array:
        """Features to the full-resolution residual around the mean colour."""
        config, dtype = self.config, self.dtype
        x = nn.leaky_relu(conv(config.num_feat, name="conv_before_upsample", dtype=dtype)(x), 0.01)
        for i in range(config.upsamplings):
            x = conv(config.num_feat, name=f"conv_up{i + 1}", dtype=dtype)(upsample_nearest(x))
            x = nn.leaky_relu(x, 0.2)
        x = nn.leaky_relu(conv(config.num_feat, name="conv_hr", dtype=dtype)(x), 0.2)
        return conv(3, name="conv_last", dtype=dtype)(x).astype(jnp.float32)


class SwinGroup(nn.Module):
    """Swin blocks, a convolution and a residual around them: the body that `SwinIR` scans."""

    config: SwinIRConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array, _: None) -> tuple[Array, None]:
        """(B, h, w, C) -> (B, h, w, C), as the carry of a scan."""
        y = x
        for i in range(self.config.depth):
            shift = self.config.window // 2 * (i % 2)
            y = SwinBlock(self.config, shift, self.dtype, name=f"block_{i}")(y)
        return x + conv(x.shape[-1], name="conv", dtype=self.dtype)(y), None


class SwinBlock(nn.Module):
    """Window attention and a feed-forward layer, normalised before each (Liu et al. 2021)."""

    config: SwinIRConfig
    shift: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, h, w, C) -> (B, h, w, C)."""
        y = jnp.roll(LayerNorm(self.dtype, name="norm1")(x), (-self.shift, -self.shift), (1, 2))
        y = WindowAttention(self.config, self.shift, self.dtype, name="attention")(y)
        x = x + jnp.roll(y, (self.shift, self.shift), (1, 2))
        y = LayerNorm(self.dtype, name="norm2")(x)
        y = nn.Dense(self.config.mlp_ratio * x.shape[-1], dtype=self.dtype, name="fc1")(y)
        return x + nn.Dense(x.shape[-1], dtype=self.dtype, name="fc2")(nn.gelu(y, approximate=False))


class WindowAttention(nn.Module):
    """Self-attention inside square windows, with a learnt bias per relative position.

    Windows are small, so all scores of a window are held at once. In a rolled image, pixels from opposite borders
    share a window; they must not see each other.
    """

    config: SwinIRConfig
    shift: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, h, w, C) -> (B, h, w, C)."""
        batch, height, width, channels = x.shape
        side, heads = self.config.window, self.config.num_heads
        rows, columns = height // side, width // side
        x = space_to_depth(x, side).reshape(batch, rows * columns, side**2, channels)
        qkv = nn.Dense(3 * channels, dtype=self.dtype, name="qkv")(x)
        q, k, v = jnp.moveaxis(qkv.reshape(*x.shape[:3], 3, heads, channels // heads), 3, 0)
        scale = (channels // heads) ** -0.5
        scores = jnp.einsum("bwqhd,bwkhd->bwhqk", q * scale, k, preferred_element_type=jnp.float32)
        scores = scores + self._position_bias()[None, None]
        if self.shift:
            apart = jnp.asarray(_regions(height, width, side, self.shift))
            apart = apart[:, :, None] != apart[:, None, :]
            scores = scores + jnp.where(apart, -100.0, 0.0)[None, :, None]
        weights = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
        y = jnp.einsum("bwhqk,bwkhd->bwqhd", weights, v).reshape(x.shape)
        y = nn.Dense(channels, dtype=self.dtype, name="proj")(y)
        return depth_to_space(y.reshape(batch, rows, columns, -1), side)

    def _position_bias(self) -> Array:
        """(heads, window^2, window^2) bias, looked up by the offset between query and key."""
        side = self.config.window
        init = nn.initializers.truncated_normal(0.02)
        table = self.param("relative_position_bias", init, ((2 * side - 1) ** 2, self.config.num_heads))
        position = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), -1).reshape(-1, 2)
        offset = position[:, None] - position[None] + side - 1
        return table[offset[..., 0] * (2 * side - 1) + offset[..., 1]].transpose(2, 0, 1)


def _regions(height: int, width: int, window: int, shift: int) -> np.ndarray:
    """(windows, window^2) labels of a rolled image's pixels: equal where they were neighbours before rolling."""

    def bands(length: int) -> np.ndarray:
        position = np.arange(length)
        return (position >= length - window).astype(np.int32) + (position >= length - shift)

    labels = 3 * bands(height)[:, None] + bands(width)[None]
    blocks = labels.reshape(height // window, window, width // window, window)
    return blocks.transpose(0, 2, 1, 3).reshape(-1, window**2)
