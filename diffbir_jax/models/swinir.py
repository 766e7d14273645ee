"""SwinIR (Liang et al. 2021), DiffBIR's restoration module for faces and for training stage 2."""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from diffbir_jax.models.layers import LayerNorm, conv, space_to_depth
from diffbir_jax.models.swin import SwinBlock

# Mean colour of DIV2K; the published weights expect inputs without it.
RGB_MEAN = (0.4488, 0.4371, 0.4040)


@dataclass(frozen=True)
class SwinIRConfig:
    """Sizes of a `SwinIR`; the defaults are those of DiffBIR's checkpoints.

    Attributes:
        embed_dim: channels of the transformer.
        num_layers: residual groups of Swin blocks; each ends with a convolution.
        depth: Swin blocks per group; every second block shifts its windows.
        num_heads: attention heads.
        window: side of the attention windows.
        mlp_ratio: width of the feed-forward layers in multiples of `embed_dim`.
        unshuffle: side of the pixel blocks folded into channels at the input. At the output, nearest-neighbour
            upsampling and convolutions undo it. A power of two.
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
        """Sides of the input are multiples of this."""
        return self.unshuffle * self.window

    @property
    def scale(self) -> int:
        """Output side / input side."""
        return 1

    @property
    def upsamplings(self) -> int:
        """Number of doublings of the resolution at the output."""
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
            ValueError: H or W is no such multiple.
        """
        config, dtype = self.config, self.dtype
        if lq.shape[1] % config.multiple or lq.shape[2] % config.multiple:
            size = f"{lq.shape[1]}x{lq.shape[2]}"
            raise ValueError(f"image is {size}; pad both sides to multiples of {config.multiple}")
        mean = jnp.asarray(RGB_MEAN, jnp.float32).reshape(1, 1, 1, 3)
        # Attention at full resolution would cost unshuffle^2 times as much.
        x = space_to_depth(lq - mean, config.unshuffle)
        shallow = conv(config.embed_dim, name="conv_first", dtype=dtype)(x)
        x = LayerNorm(dtype, name="patch_norm")(shallow)
        groups = nn.scan(
            SwinGroup, variable_axes={"params": 0}, split_rngs={"params": True}, length=config.num_layers
        )
        # One traced group for all of them: compile time does not grow with their number.
        x, _ = groups(config, dtype, name="groups")(x, None)
        x = conv(config.embed_dim, name="conv_after_body", dtype=dtype)(LayerNorm(dtype, name="norm")(x))
        return self._reconstruct(x + shallow) + mean

    def _reconstruct(self, x: Array) -> Array:
        """Features to the full-resolution residual around the mean colour."""
        config, dtype = self.config, self.dtype
        x = nn.leaky_relu(conv(config.num_feat, name="conv_before_upsample", dtype=dtype)(x), 0.01)
        for i in range(config.upsamplings):
            x = conv(config.num_feat, name=f"conv_up{i + 1}", upsample=True, dtype=dtype)(x)
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
        y, config = x, self.config
        for i in range(config.depth):
            shift = config.window // 2 * (i % 2)
            block = SwinBlock(
                config.num_heads, config.window, shift, config.mlp_ratio, self.dtype, name=f"block_{i}"
            )
            y = block(y)
        return x + conv(x.shape[-1], name="conv", dtype=self.dtype)(y), None
