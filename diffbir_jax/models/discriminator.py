"""Patch discriminator for adversarial training of the autoencoder's decoder.

PatchGAN (Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", 2017), as VQGAN
and latent diffusion use it, with group instead of batch normalisation: a logit must not depend on the rest of
the batch.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from diffbir_jax.models.layers import GroupNorm, PlainConv

# Widths stop doubling here, as in PatchGAN: deeper layers would hold most parameters.
MAX_WIDENING = 8


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Shape of a `PatchDiscriminator`.

    Attributes:
        ch: width of the first layer; every further layer doubles it, up to eight times `ch`.
        layers: strided convolutions; each halves the resolution. With three, the convolutions
            behind a logit see 70x70 pixels.
    """

    ch: int = 32
    layers: int = 3


class PatchDiscriminator(nn.Module):
    """Strided 4x4 convolutions, then two at full width: one realness logit per patch."""

    config: DiscriminatorConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Judge every patch of `image`.

        Args:
            image: (B, H, W, 3) in [-1, 1]; H and W at least 4 * 2**layers.

        Returns:
            (B, H / 2**layers - 2, W / 2**layers - 2, 1) float32 logits, higher for real (sides rounded down).

        Raises:
            ValueError: if a side is too short to leave a logit.
        """
        cfg = self.config
        if min(image.shape[1:3]) < 4 * 2**cfg.layers:
            raise ValueError(
                f"PatchDiscriminator: {image.shape[1]}x{image.shape[2]} given, {cfg.layers} layers need "
                f"sides of at least {4 * 2**cfg.layers}: use larger crops or fewer layers."
            )
        # The first layer has no normalisation (Isola et al.), so the image's level and contrast stay visible.
        x = nn.leaky_relu(self._conv(cfg.ch, 2, "conv_in")(image), 0.2)
        for i in range(1, cfg.layers + 1):
            width = cfg.ch * min(2**i, MAX_WIDENING)
            x = self._conv(width, 2 if i < cfg.layers else 1, f"conv_{i}")(x)
            x = nn.leaky_relu(GroupNorm(dtype=self.dtype, name=f"norm_{i}")(x), 0.2)
        return self._conv(1, 1, "conv_out")(x).astype(jnp.float32)

    def _conv(self, features: int, stride: int, name: str) -> PlainConv:
        init = nn.initializers.normal(0.02)
        return PlainConv(features, (4, 4), stride, padding=1, dtype=self.dtype, kernel_init=init, name=name)
