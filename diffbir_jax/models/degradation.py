"""The network that reads from a photo how it was degraded: dense layers on the statistics of `degradation_features`."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffbir_jax.models.degradation_features import features
from diffbir_jax.models.layers import Dense

QUANTITIES = ("blur", "noise", "quality", "scale")
# Smallest and largest values, those of a photo without degradation, and the units in which errors count the same.
LEAST, MOST = (0.0, 0.0, 1.0, 1.0), (10.0, 100.0, 100.0, 4.0)
UNITS = (0.5, 6.0, 15.0, 0.8)
# Normalised features beyond this many deviations are cut off: other photos may have any.
WIDEST = 6.0


@dataclass(frozen=True)
class DegradationReaderConfig:
    """Sizes of a `DegradationReader`.

    Attributes:
        widths: features of the hidden layers.
    """

    widths: tuple[int, ...] = (256, 128, 64)


class DegradationReader(nn.Module):
    """Reads `QUANTITIES` from an image; each with its expected absolute error.

    - blur: standard deviation (pixels) of the point spread, the root mean square of both axes, of the kernel as it is
      sampled. A photo that was reduced loses its finest detail in any case, so a blur that the reduction hides cannot
      be told. Therefore it is measured in pixels of the reduced photo: a blur of 2 pixels before a reduction by 4 is
      0.5.
    - noise: standard deviation (levels of 255) of white noise before the last compression.
    - quality: that of JPEG (libjpeg, 1 to 100), at the present size and with blocks that start at the corner; 100 if
      there is no trace of it.
    - scale: by how much the photo was reduced before it was enlarged to its present size (1 to 4); 1 if it was not.
    """

    config: DegradationReaderConfig = DegradationReaderConfig()

    def __call__(self, image: Array) -> tuple[Array, Array]:
        """Read images.

        Args:
            image: (B, H, W, 3) RGB of 0 to 255; sides are multiples of 16 and at least 64.

        Returns:
            values and expected absolute errors, (B, 4) float32 each, in the order of `QUANTITIES`.
        """
        values, log_errors = self.read(features(image))
        units, least, most = (np.array([row], np.float32) for row in (UNITS, LEAST, MOST))
        return jnp.clip(values * units, least, most), jnp.exp(log_errors) * units

    @nn.compact
    def read(self, found: Array) -> tuple[Array, Array]:
        """(B, F) features -> values and logarithms of their expected errors, (B, 4) each, in `UNITS`."""
        shape = (found.shape[-1],)
        mean = self.param("mean", nn.initializers.zeros, shape)
        deviation = self.param("deviation", nn.initializers.ones, shape)
        x = jnp.clip((found - mean[None]) / deviation[None], -WIDEST, WIDEST)
        for i, width in enumerate(self.config.widths):
            x = jax.nn.gelu(Dense(width, name=f"dense_{i}")(x))
        x = Dense(2 * len(QUANTITIES), name="out")(x)
        values, errors = jnp.split(x, 2, axis=-1)
        return values, jnp.clip(errors, -5.0, 3.0)
