"""BSRNet (Zhang et al. 2021), the restoration module of DiffBIR v2: the RRDBNet of ESRGAN (Wang et al. 2018)."""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from diffbir_jax.models.convolution import convolve
from diffbir_jax.models.layers import conv, space_to_depth


@dataclass(frozen=True)
class BSRNetConfig:
    """Sizes of a `BSRNet`; the defaults are those of BSRGAN's and Real-ESRGAN's x4 checkpoints.

    Attributes:
        num_feat: channels between the blocks.
        num_blocks: residual-in-residual dense blocks.
        growth: channels that each convolution of a dense block adds.
        scale: output side / input side, a power of two.
        unshuffle: side of the pixel blocks folded into channels at the input, a power of two (2: Real-ESRGAN x2plus).
    """

    num_feat: int = 64
    num_blocks: int = 23
    growth: int = 32
    scale: int = 4
    unshuffle: int = 1

    @property
    def multiple(self) -> int:
        """Sides of the input are multiples of this."""
        return self.unshuffle

    @property
    def upsamplings(self) -> int:
        """Number of doublings of the resolution at the output."""
        return (self.scale * self.unshuffle).bit_length() - 1


class BSRNet(nn.Module):
    """Degraded image to clean image with `config.scale` times the sides."""

    config: BSRNetConfig = BSRNetConfig()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, lq: Array) -> Array:
        """Restore and enlarge.

        Args:
            lq: (B, H, W, 3) in [0, 1]; H and W are multiples of `config.multiple`.

        Returns:
            float32 (B, scale H, scale W, 3), about [0, 1].
        """
        config, dtype = self.config, self.dtype
        features = conv(config.num_feat, name="conv_first", dtype=dtype)(
            space_to_depth(lq, config.unshuffle) if config.unshuffle > 1 else lq
        )
        blocks = nn.scan(
            ResidualInResidualBlock,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=config.num_blocks,
            unroll=config.num_blocks,  # 10 % faster on CPUs than slicing the weights in a loop
        )
        x, _ = blocks(config.growth, dtype, name="blocks")(features, None)
        x = features + conv(config.num_feat, name="conv_body", dtype=dtype)(x)
        for i in range(config.upsamplings):
            x = conv(config.num_feat, name=f"conv_up{i + 1}", upsample=True, dtype=dtype)(x)
            x = nn.leaky_relu(x, 0.2)
        x = nn.leaky_relu(conv(config.num_feat, name="conv_hr", dtype=dtype)(x), 0.2)
        return conv(3, name="conv_last", dtype=dtype)(x).astype(jnp.float32)


class ResidualInResidualBlock(nn.Module):
    """Three dense blocks and a damped residual around them: the body that `BSRNet` scans."""

    growth: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array, _: None) -> tuple[Array, None]:
        """(B, H, W, C) -> (B, H, W, C), as the carry of a scan."""
        y = x
        for i in range(3):
            y = DenseBlock(self.growth, self.dtype, name=f"dense_{i}")(y)
        # Damping by 0.2 keeps deep stacks without normalisation stable (ESRGAN's residual scaling).
        return x + 0.2 * y, None


class DenseBlock(nn.Module):
    """Five convolutions and a damped residual. Each convolution sees all features before it.

    Features are convolved as soon as they are known, for all later convolutions at once. These products have few input
    channels and many outputs, and nothing is concatenated: on CPUs a block takes a fifth less time than with one
    convolution per kernel.
    """

    growth: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, H, W, C) -> (B, H, W, C)."""
        channels, growth = x.shape[-1], self.growth
        widths = (growth,) * 4 + (channels,)
        convs = [conv(width, name=f"conv_{i}", dtype=self.dtype) for i, width in enumerate(widths)]
        kernels, biases = zip(*(c.weights(channels + i * growth) for i, c in enumerate(convs)), strict=True)

        def seen(features: Array, first: int, start: int) -> Array:
            """What the convolutions from `first` on make of features that are their input channels from `start` on."""
            parts = [kernel[:, :, start : start + features.shape[-1]] for kernel in kernels[first:]]
            return convolve(features, jnp.concatenate(parts, axis=-1))

        later = seen(x, 0, 0) + jnp.concatenate(biases, axis=-1)
        for i in range(len(convs) - 1):
            grown, later = nn.leaky_relu(later[..., :growth], 0.2), later[..., growth:]
            later = later + seen(grown, i + 1, channels + i * growth)
        return x + 0.2 * later
