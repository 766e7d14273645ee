"""The estimator of how degraded an image is, of S3Diff (Zhang et al. 2024) and MM-RealSR (Mou et al. 2022)."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from diffbir_jax.models.layers import Dense, conv


@dataclass(frozen=True)
class DegradationEstimatorConfig:
    """Sizes of a `DegradationEstimator`; the defaults are the published ones.

    Attributes:
        widths: channels of each stage.
        blocks: residual blocks per stage.
        strides: after each stage but the last, a convolution to the next width has this stride; there is none for 1
            between stages of equal width.
        hidden: features of the layer before the result.
        degrees: number of degrees, each with a network of its own.
    """

    widths: tuple[int, ...] = (64, 64, 64, 128)
    blocks: int = 2
    strides: tuple[int, ...] = (1, 1, 2, 1)
    hidden: int = 512
    degrees: int = 2

    def changes(self, stage: int) -> bool:
        """Whether a convolution follows a stage."""
        last = stage == len(self.widths) - 1
        return not last and (self.strides[stage] > 1 or self.widths[stage] != self.widths[stage + 1])


class DegradationEstimator(nn.Module):
    """Degrees of noise and blur of an image."""

    config: DegradationEstimatorConfig = DegradationEstimatorConfig()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image: Array) -> Array:
        """(B, H, W, 3) in [0, 1], not enlarged -> (B, degrees) float32 in (0, 1)."""
        towers = [
            Tower(self.config, self.dtype, name=f"tower_{i}")(image) for i in range(self.config.degrees)
        ]
        return jax.nn.sigmoid(jnp.concatenate(towers, axis=-1).astype(jnp.float32))


class Tower(nn.Module):
    """Residual stages without normalisation, the mean over all pixels, and two dense layers."""

    config: DegradationEstimatorConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, H, W, 3) -> (B, 1)."""
        config, dtype = self.config, self.dtype
        x = conv(config.widths[0], name="conv_in", dtype=dtype)(x)
        for stage, width in enumerate(config.widths):
            for i in range(config.blocks):
                name = f"stage_{stage}_block_{i}"
                y = nn.relu(conv(width, name=f"{name}_conv1", dtype=dtype)(x))
                x = x + conv(width, name=f"{name}_conv2", dtype=dtype)(y)
            if config.changes(stage):
                stride, features = config.strides[stage], config.widths[stage + 1]
                x = conv(features, stride=stride, name=f"stage_{stage}_change", dtype=dtype)(x)
        x = x.mean((1, 2))
        x = nn.relu(Dense(config.hidden, dtype=dtype, name="dense_1")(x))
        return Dense(1, dtype=dtype, name="dense_2")(x)
