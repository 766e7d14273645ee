"""S3Diff's modulation (Zhang et al. 2024): the degradation of an image changes the LoRA, block by block."""

import math
import re
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from diffbir_jax.models.layers import Dense, Layer

# Places in diffusers' order: encoder levels, the middle, decoder levels, and what lies outside of levels.
_LEVELS = 4
MIDDLE, OUTSIDE_VAE, OUTSIDE_UNET = 4, 5, 9


@dataclass(frozen=True)
class ModulationConfig:
    """Sizes of a `Modulation`; the defaults are the published ones.

    Attributes:
        unet_rank, vae_rank: ranks of the LoRAs.
        frequencies: of the Fourier embedding of each degree.
        degrees: number of degrees of degradation.
        unet_blocks, vae_blocks: parts of the networks with a matrix of their own.
        block_dim: features of a part's embedding.
    """

    unet_rank: int = 32
    vae_rank: int = 16
    frequencies: int = 64
    degrees: int = 2
    unet_blocks: int = 10
    vae_blocks: int = 6
    block_dim: int = 64


class Modulation(nn.Module):
    """Degrees of degradation to one matrix per part of the UNet and of the encoder; float32."""

    config: ModulationConfig = ModulationConfig()

    def setup(self) -> None:
        """Create the network of each LoRA."""
        config = self.config
        self.frequencies = Frequencies(config.frequencies)
        self.unet = Matrices(config.unet_blocks, config.unet_rank, config)
        self.vae = Matrices(config.vae_blocks, config.vae_rank, config)

    def __call__(self, degrees: Array) -> dict[str, Array]:
        """(B, degrees) in [0, 1] -> for "unet" and "vae" M[image, part, k, r], (B, parts, rank, rank)."""
        features = self.embed(degrees)
        return {"unet": self.unet(features), "vae": self.vae(features)}

    def embed(self, degrees: Array) -> Array:
        """(B, degrees) -> (B, 2 degrees frequencies): per degree all sines, then all cosines."""
        angles = 2.0 * math.pi * self.frequencies(degrees)
        waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        return waves.reshape(len(degrees), -1)


class Frequencies(Layer):
    """Multiples of its input by fixed random frequencies (Tancik et al. 2020)."""

    count: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(..., n) -> (..., n, count)."""
        return x[..., None] * self.param("w", nn.initializers.normal(1.0), (self.count,)).reshape(
            (1,) * x.ndim + (-1,)
        )


class Matrices(Layer):
    """A square matrix per part, from features of the image and an embedding of the part."""

    parts: int
    rank: int
    config: ModulationConfig

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """(B, F) -> (B, parts, rank, rank)."""
        config, count = self.config, (self.parts, self.config.block_dim)
        size = 2 * config.degrees * config.frequencies
        image = nn.relu(Dense(size, name="image")(features))
        embedding = self.param("embedding", nn.initializers.normal(1.0), count)
        part = nn.relu(Dense(config.block_dim, name="part")(embedding))
        both = (len(features), self.parts)
        joined = [
            jnp.broadcast_to(image[:, None], (*both, size)),
            jnp.broadcast_to(part[None], (*both, config.block_dim)),
        ]
        found = Dense(self.rank**2, name="out")(jnp.concatenate(joined, axis=-1))
        return found.reshape(*both, self.rank, self.rank)


def unet_part(path: str) -> int:
    """Return the number of the part of the UNet that a layer's path lies in."""
    if found := re.match(r"(encoder/down|up)_(\d)_", path):
        # diffusers counts decoder levels from the lowest resolution.
        return int(found[2]) if found[1] != "up" else MIDDLE + _LEVELS - int(found[2])
    return MIDDLE if path.startswith("encoder/mid_") else OUTSIDE_UNET


def vae_part(path: str) -> int:
    """Return the number of the part of the autoencoder's encoder that a layer's path lies in."""
    if found := re.match(r"encoder/down_(\d)_", path):
        return int(found[1])
    return MIDDLE if path.startswith("encoder/mid/") else OUTSIDE_VAE


def matrices_of(matrices: Array, part: int) -> Array:
    """Return (B, rank, rank) of a part of (B, parts, rank, rank)."""
    return jax.lax.index_in_dim(matrices, part, axis=1, keepdims=False)
