"""SRVGGNetCompact, the small networks of Real-ESRGAN (Wang et al. 2021): general-x4v3 and those for animated films."""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from diffbir_jax.models.convolution import upsample_nearest
from diffbir_jax.models.layers import Layer, conv, depth_to_space


@dataclass(frozen=True)
class SRVGGConfig:
    """Sizes of an `SRVGG`; the defaults are those of general-x4v3.

    Attributes:
        num_feat: channels.
        num_conv: convolutions between the first and the last one (16 in the networks for animated films).
        scale: output side / input side.
    """

    num_feat: int = 64
    num_conv: int = 32
    scale: int = 4

    @property
    def multiple(self) -> int:
        """Sides of the input are multiples of this."""
        return 1


class SRVGG(Layer):
    """Degraded image to clean image with `config.scale` times the sides. All convolutions see the small image."""

    config: SRVGGConfig = SRVGGConfig()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, lq: Array) -> Array:
        """Restore and enlarge.

        Args:
            lq: (B, H, W, 3) in [0, 1].

        Returns:
            float32 (B, scale H, scale W, 3), about [0, 1].
        """
        config, dtype = self.config, self.dtype
        slopes = self.param("slopes_first", nn.initializers.constant(0.25), (config.num_feat,))
        x = sloped(conv(config.num_feat, name="conv_first", dtype=dtype)(lq), slopes)
        layers = nn.scan(
            SlopedConv, variable_axes={"params": 0}, split_rngs={"params": True}, length=config.num_conv
        )
        x, _ = layers(dtype, name="layers")(x, None)
        x = conv(3 * config.scale**2, name="conv_last", dtype=dtype)(x)
        # The network learns the difference to the enlarged input.
        return depth_to_space(x, config.scale).astype(jnp.float32) + upsample_nearest(lq, config.scale)


class SlopedConv(Layer):
    """A convolution and an activation with learnt slopes: the body that `SRVGG` scans."""

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array, _: None) -> tuple[Array, None]:
        """(B, H, W, C) -> (B, H, W, C), as the carry of a scan."""
        slopes = self.param("slopes", nn.initializers.constant(0.25), (x.shape[-1],))
        return sloped(conv(x.shape[-1], name="conv", dtype=self.dtype)(x), slopes), None


def sloped(x: Array, slopes: Array) -> Array:
    """(..., C) with a slope (C,) for negative values of each channel (He et al. 2015)."""
    return jnp.where(x >= 0, x, x * slopes.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,)))
