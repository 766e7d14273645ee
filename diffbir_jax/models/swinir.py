"""SwinIR (Liang et al. 2021): DiffBIR's restoration module for faces and for training, and the official ones."""

from dataclasses import dataclass
from typing import Literal, get_args

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from diffbir_jax.models.layers import LayerNorm, conv, depth_to_space, space_to_depth
from diffbir_jax.models.swin import SwinBlock

Upsampler = Literal["nearest+conv", "pixelshuffle", "pixelshuffledirect", "none"]
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
            upsampling and convolutions undo it. A power of two; 1 for the official networks.
        num_feat: channels of those convolutions.
        upsampler: the head. "nearest+conv" (DiffBIR's, and the official one for real photos), "pixelshuffle" (classical
            super-resolution), "pixelshuffledirect" (lightweight), "none" (denoising and JPEG: a residual).
        scale: output side / input side: 1, 2, 3, 4 or 8.
        bottleneck: three convolutions with a narrow one in the middle after each group, as in the large network.
    """

    embed_dim: int = 180
    num_layers: int = 8
    depth: int = 6
    num_heads: int = 6
    window: int = 8
    mlp_ratio: int = 2
    unshuffle: int = 8
    num_feat: int = 64
    upsampler: Upsampler = "nearest+conv"
    scale: int = 1
    bottleneck: bool = False

    def __post_init__(self) -> None:
        if self.upsampler not in get_args(Upsampler):
            raise ValueError(
                f"upsampler {self.upsampler!r} given, allowed are {', '.join(get_args(Upsampler))}"
            )

    @property
    def multiple(self) -> int:
        """Sides of the input are multiples of this."""
        return self.unshuffle * self.window

    @property
    def upsamplings(self) -> int:
        """Number of doublings of the resolution at the output of "nearest+conv"."""
        return (self.unshuffle * self.scale).bit_length() - 1

    @property
    def shuffles(self) -> tuple[int, ...]:
        """Factors by which "pixelshuffle" enlarges, one after another."""
        return (3,) if self.scale == 3 else (2,) * (self.scale.bit_length() - 1)

    @property
    def input_range(self) -> float:
        """Largest value that the published weights expect: those with windows of 7 (JPEG) count to 255."""
        return 255.0 if self.upsampler == "none" and self.window == 7 else 1.0


class SwinIR(nn.Module):
    """Degraded image to clean image with `config.scale` times the sides."""

    config: SwinIRConfig = SwinIRConfig()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, lq: Array) -> Array:
        """Restore.

        Args:
            lq: (B, H, W, 3) in [0, 1]; H and W are multiples of `config.multiple`.

        Returns:
            float32 (B, scale H, scale W, 3), about [0, 1].

        Raises:
            ValueError: H or W is no such multiple.
        """
        config, dtype = self.config, self.dtype
        if lq.shape[1] % config.multiple or lq.shape[2] % config.multiple:
            size = f"{lq.shape[1]}x{lq.shape[2]}"
            raise ValueError(f"image is {size}; pad both sides to multiples of {config.multiple}")
        mean = jnp.asarray(RGB_MEAN, jnp.float32).reshape(1, 1, 1, 3)
        # Attention at full resolution would cost unshuffle^2 times as much.
        centred = (lq - mean) * config.input_range
        x = space_to_depth(centred, config.unshuffle)
        shallow = conv(config.embed_dim, name="conv_first", dtype=dtype)(x)
        x = LayerNorm(dtype, name="patch_norm")(shallow)
        groups = nn.scan(
            SwinGroup, variable_axes={"params": 0}, split_rngs={"params": True}, length=config.num_layers
        )
        # One traced group for all of them: compile time does not grow with their number.
        x, _ = groups(config, dtype, name="groups")(x, None)
        x = residual_conv(config, dtype, "conv_after_body", LayerNorm(dtype, name="norm")(x))
        x = self._reconstruct(x + shallow)
        return (x + centred if config.upsampler == "none" else x) / config.input_range + mean

    def _reconstruct(self, x: Array) -> Array:
        """Features to the full-resolution residual around the mean colour."""
        config, dtype = self.config, self.dtype
        if config.upsampler == "none":
            return conv(3, name="conv_last", dtype=dtype)(x).astype(jnp.float32)
        if config.upsampler == "pixelshuffledirect":
            x = conv(3 * config.scale**2, name="upsample_0", dtype=dtype)(x)
            return depth_to_space(x, config.scale).astype(jnp.float32)
        x = nn.leaky_relu(conv(config.num_feat, name="conv_before_upsample", dtype=dtype)(x), 0.01)
        x = self._shuffled(x) if config.upsampler == "pixelshuffle" else self._repeated(x)
        return conv(3, name="conv_last", dtype=dtype)(x).astype(jnp.float32)

    def _shuffled(self, x: Array) -> Array:
        """Enlarge by turning channels into pixels (Shi et al. 2016)."""
        for i, factor in enumerate(self.config.shuffles):
            features = self.config.num_feat * factor**2
            x = depth_to_space(conv(features, name=f"upsample_{i}", dtype=self.dtype)(x), factor)
        return x

    def _repeated(self, x: Array) -> Array:
        """Enlarge by repeating pixels, with convolutions between."""
        config, dtype = self.config, self.dtype
        for i in range(config.upsamplings):
            x = conv(config.num_feat, name=f"conv_up{i + 1}", upsample=True, dtype=dtype)(x)
            x = nn.leaky_relu(x, 0.2)
        return nn.leaky_relu(conv(config.num_feat, name="conv_hr", dtype=dtype)(x), 0.2)


def residual_conv(config: SwinIRConfig, dtype: DTypeLike, name: str, x: Array) -> Array:
    """(B, h, w, C) -> (B, h, w, C): the convolution, or with `bottleneck` the three, before a residual is added."""
    width = x.shape[-1]
    if not config.bottleneck:
        return conv(width, name=name, dtype=dtype)(x)
    for i, (features, size) in enumerate(((width // 4, 3), (width // 4, 1), (width, 3))):
        x = conv(features, size, name=f"{name}_{i}", dtype=dtype)(x)
        x = nn.leaky_relu(x, 0.2) if i < 2 else x
    return x


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
        return x + residual_conv(config, self.dtype, "conv", y), None
