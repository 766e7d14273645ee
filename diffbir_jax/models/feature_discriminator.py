"""Discriminator head on the features of a frozen network, as in vision-aided GANs.

Kumari et al., "Ensembling Off-the-shelf Models for GAN Training", 2022, in the form that HYPIR trains: maps of several
resolutions from a ConvNeXt of CLIP, and its pooled vector. All layers are for use with `models.spectral`.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from diffbir_jax.models.layers import Dense, conv

# Shorter sides leave no logit.
MIN_SIDE = 4


class FeatureDiscriminator(nn.Module):
    """One small network per level, from features to logits; the levels share no weights.

    Attributes:
        width: channels between the two layers of a level.
        dtype: compute dtype.
    """

    width: int = 512
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Sequence[Array]) -> list[Array]:
        """Judge every level.

        Args:
            features: maps (B, h, w, C) with h and w at least 4, or vectors (B, C); any float dtype.

        Returns:
            Per level, float32 logits (B, h / 4, w / 4, 1) of a map (sides rounded down) or (B, 1) of a vector; higher
            for real.

        Raises:
            ValueError: a map is too small to leave a logit.
        """
        return [
            # Losses are computed in float32 whatever the compute dtype.
            (self._map if x.ndim == 4 else self._vector)(x, f"level_{i}").astype(jnp.float32)
            for i, x in enumerate(features)
        ]

    def _map(self, x: Array, name: str) -> Array:
        """Two strided convolutions, each on a smoothed map, so that the stride causes no aliasing."""
        if min(x.shape[1:3]) < MIN_SIDE:
            raise ValueError(
                f"FeatureDiscriminator: a map of {x.shape[1]}x{x.shape[2]} given, sides must be at least {MIN_SIDE}: "
                "use larger crops or fewer levels"
            )
        wide = conv(self.width, 3, stride=2, padding=(0, 0), dtype=self.dtype, name=f"{name}_in")
        last = conv(1, 1, stride=2, padding=(0, 0), dtype=self.dtype, name=f"{name}_out")
        return last(smooth(nn.leaky_relu(wide(smooth(x, 2)), 0.2), 1))

    def _vector(self, x: Array, name: str) -> Array:
        x = nn.leaky_relu(Dense(self.width, dtype=self.dtype, name=f"{name}_in")(x), 0.2)
        return Dense(1, dtype=self.dtype, name=f"{name}_out")(x)


def smooth(x: Array, padding: int) -> Array:
    """Blur by (1, 3, 3, 1) / 8 along both axes.

    Args:
        x: (B, H, W, C).
        padding: zeros on every side.

    Returns:
        (B, H + 2 padding - 3, W + 2 padding - 3, C).
    """
    border = (padding, padding)
    return _smooth(_smooth(jnp.pad(x, ((0, 0), border, border, (0, 0))), 1), 2)


def _smooth(x: Array, axis: int) -> Array:
    """Sums of slices, because XLA's convolution of single channels is slow on CPUs."""
    length = x.shape[axis] - 3
    first, second, third, fourth = (lax.slice_in_dim(x, i, i + length, axis=axis) for i in range(4))
    return (first + 3 * (second + third) + fourth) / 8
