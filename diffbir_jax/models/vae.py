"""The autoencoder of latent diffusion (Rombach et al. 2022), in the layout of Stable Diffusion."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from diffbir_jax.models.attention import attention
from diffbir_jax.models.bsrnet import BSRNet, BSRNetConfig
from diffbir_jax.models.layers import (
    Dense,
    GroupNorm,
    Norm,
    PlainConv,
    conv,
    depth_to_space,
    norm,
    space_to_depth,
)


@dataclass(frozen=True)
class VAEConfig:
    """Sizes of an `AutoencoderKL`; the defaults are those of Stable Diffusion 1 and 2.

    Attributes:
        ch: channels of the first level.
        ch_mult: multiple of `ch` at each level; every level except the last halves the resolution.
        num_res_blocks: residual blocks per encoder level (the decoder has one more).
        z_channels: channels inside the bottleneck.
        embed_dim: channels of the latent.
        in_channels: channels of the image.
        scale_factor: multiplies a latent to give it about unit variance; applied by the caller.
        patch_size: side of the pixel blocks that are folded into channels before the first convolution and
            unfolded after the last. 1 for the published networks; larger values avoid full-resolution layers on CPUs.
        mid_attention: whether the middle blocks have self-attention.
        shortcut: add linear maps from each image patch to its latent and back, parallel to the networks (as the
            residual autoencoding of DC-AE, Chen et al. 2024). A small autoencoder then starts as good as a linear one.
        norm: normalisation of the convolutions, see `layers.norm`; "group" for the published networks.
        dense_blocks: with a number above 0, the decoder is an RRDBNet (`BSRNet`) with this many blocks. It works at the
            latent's resolution and enlarges at its end; it has no shortcut.
    """

    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    z_channels: int = 4
    embed_dim: int = 4
    in_channels: int = 3
    scale_factor: float = 0.18215
    patch_size: int = 1
    mid_attention: bool = True
    shortcut: bool = False
    norm: Norm = "group"
    dense_blocks: int = 0

    @property
    def downsample(self) -> int:
        """Image pixels per latent pixel, along each axis."""
        return self.patch_size * 2 ** (len(self.ch_mult) - 1)


class AutoencoderKL(nn.Module):
    """Convolutional autoencoder with a diagonal Gaussian posterior.

    Apply it with the methods `encode` and `decode`; calling the module does both, which `init` needs.
    With `remat`, the backward pass recomputes the inside of the encoder's residual blocks, of attention, and of the
    decoder's levels (of its last level, block by block).
    """

    config: VAEConfig = VAEConfig()
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    def setup(self) -> None:
        """Create the networks that `encode` and `decode` share."""
        config = self.config
        self.encoder = Encoder(config, self.dtype, self.remat)
        self.decoder = self._decoder()
        # Twice the latent's channels: mean and log-variance.
        self.quant_conv = PlainConv(2 * config.embed_dim, (1, 1), dtype=self.dtype)
        self.post_quant_conv = PlainConv(config.z_channels, (1, 1), dtype=self.dtype)
        if config.shortcut:
            patch = config.in_channels * config.downsample**2
            self.to_latent = Dense(2 * config.embed_dim, dtype=self.dtype)
            self.to_patch = Dense(patch, dtype=self.dtype)

    def _decoder(self) -> nn.Module:
        config = self.config
        if not config.dense_blocks:
            return Decoder(config, self.dtype, self.remat)
        # The latent has 1/downsample of the image's sides, so the RRDBNet enlarges by that factor.
        return BSRNet(BSRNetConfig(num_blocks=config.dense_blocks, scale=config.downsample), self.dtype)

    def __call__(self, image: Array) -> Array:
        """Reconstruction of `image` through the posterior's mean; shapes and range as in `encode`."""
        return self.decode(self.encode(image)[0])

    def encode(self, image: Array) -> tuple[Array, Array]:
        """Posterior of an image.

        Args:
            image: (B, H, W, in_channels) in [-1, 1]; H and W are multiples of `config.downsample`.

        Returns:
            mean and log-variance, float32 (B, H/downsample, W/downsample, embed_dim), not scaled by
            `scale_factor`; the log-variance is clipped to [-30, 20].

        Raises:
            ValueError: H or W is no such multiple.
        """
        factor = self.config.downsample
        if image.shape[1] % factor or image.shape[2] % factor:
            size = f"{image.shape[1]}x{image.shape[2]}"
            raise ValueError(f"image is {size}; pad both sides to multiples of {factor}")
        moments = self.quant_conv(self.encoder(image)).astype(jnp.float32)
        if self.config.shortcut:
            moments = moments + self.to_latent(space_to_depth(image, factor)).astype(jnp.float32)
        # Clipped as in latent diffusion: exp of the log-variance stays finite.
        mean, logvar = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(logvar, -30.0, 20.0)

    def decode(self, z: Array) -> Array:
        """Image of a latent.

        Args:
            z: (B, h, w, embed_dim), not scaled by `scale_factor`.

        Returns:
            float32 (B, h downsample, w downsample, in_channels), about [-1, 1].
        """
        image = self.decoder(self.post_quant_conv(z)).astype(jnp.float32)
        if self.config.dense_blocks:
            return 2.0 * image - 1.0  # RRDBNets draw in [0, 1]
        if self.config.shortcut:
            image = image + depth_to_space(self.to_patch(z), self.config.downsample).astype(jnp.float32)
        return image


class Encoder(nn.Module):
    """Image to the features that hold the posterior's moments."""

    config: VAEConfig
    dtype: DTypeLike
    remat: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, H, W, in_channels) -> (B, H/downsample, W/downsample, 2 z_channels)."""
        config, dtype = self.config, self.dtype
        block = nn.remat(ResnetBlock) if self.remat else ResnetBlock
        x = conv(config.ch, name="conv_in", dtype=dtype)(space_to_depth(x, config.patch_size))
        for level, multiple in enumerate(config.ch_mult):
            for i in range(config.num_res_blocks):
                x = block(config.ch * multiple, dtype, config.norm, name=f"down_{level}_block_{i}")(x)
            if level + 1 < len(config.ch_mult):
                # Stable Diffusion pads here only after the last row and column.
                name = f"down_{level}_downsample"
                x = conv(x.shape[-1], stride=2, padding=(0, 1), name=name, dtype=dtype)(x)
        x = Middle(config.mid_attention, dtype, self.remat, config.norm, name="mid")(x)
        x = nn.silu(norm(config.norm, name="norm_out", dtype=dtype, epsilon=1e-6)(x))
        return conv(2 * config.z_channels, name="conv_out", dtype=dtype)(x)


class Decoder(nn.Module):
    """Features to image."""

    config: VAEConfig
    dtype: DTypeLike
    remat: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, h, w, z_channels) -> (B, h downsample, w downsample, in_channels)."""
        config, dtype = self.config, self.dtype
        x = conv(config.ch * config.ch_mult[-1], name="conv_in", dtype=dtype)(x)
        x = Middle(config.mid_attention, dtype, self.remat, config.norm, name="mid")(x)
        for level in reversed(range(len(config.ch_mult))):
            blocks = range(config.num_res_blocks + 1)
            # A level of smaller images is one part: what is inside it takes less than a block of the largest images.
            for part in [(i,) for i in blocks] if level == 0 else [blocks]:
                x = self._part(partial(_blocks, level=level, numbers=part), x)
        return depth_to_space(self._part(_image, x), config.patch_size)

    def _part(self, part: Callable[["Decoder", Array], Array], x: Array) -> Array:
        """Apply a part. With `remat`, its input is all that is kept of it for the backward pass."""
        return (nn.remat(part) if self.remat else part)(self, x)


def _blocks(decoder: Decoder, x: Array, level: int, numbers: Sequence[int]) -> Array:
    """Residual blocks of a level. The first one's input is enlarged here, because the smaller image is kept."""
    config, dtype = decoder.config, decoder.dtype
    features = config.ch * config.ch_mult[level]
    for i in numbers:
        if i == 0 and level + 1 < len(config.ch_mult):
            x = conv(x.shape[-1], name=f"up_{level + 1}_upsample", upsample=True, dtype=dtype)(x)
        x = ResnetBlock(features, dtype, config.norm, name=f"up_{level}_block_{i}")(x)
    return x


def _image(decoder: Decoder, x: Array) -> Array:
    """The last features to the image."""
    config, dtype = decoder.config, decoder.dtype
    x = nn.silu(norm(config.norm, name="norm_out", dtype=dtype, epsilon=1e-6)(x))
    return conv(config.patch_size**2 * config.in_channels, name="conv_out", dtype=dtype)(x)


class Middle(nn.Module):
    """Residual block, self-attention, residual block, at the lowest resolution."""

    attention: bool
    dtype: DTypeLike
    remat: bool
    norm: Norm = "group"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, h, w, C) -> (B, h, w, C)."""
        block = nn.remat(ResnetBlock) if self.remat else ResnetBlock
        x = block(x.shape[-1], self.dtype, self.norm, name="block_1")(x)
        if self.attention:
            attend = nn.remat(AttentionBlock) if self.remat else AttentionBlock
            x = attend(self.dtype, name="attention")(x)
        return block(x.shape[-1], self.dtype, self.norm, name="block_2")(x)


class ResnetBlock(nn.Module):
    """Two normalised 3x3 convolutions and a shortcut."""

    features: int
    dtype: DTypeLike
    norm: Norm = "group"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, h, w, C) -> (B, h, w, features)."""
        y = nn.silu(norm(self.norm, name="norm1", dtype=self.dtype, epsilon=1e-6)(x))
        y = conv(self.features, name="conv1", dtype=self.dtype)(y)
        y = nn.silu(norm(self.norm, name="norm2", dtype=self.dtype, epsilon=1e-6)(y))
        y = conv(self.features, name="conv2", dtype=self.dtype)(y)
        if x.shape[-1] != self.features:
            x = conv(self.features, 1, name="shortcut", dtype=self.dtype)(x)
        return x + y


class AttentionBlock(nn.Module):
    """Single-head self-attention over all pixels, with a residual."""

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, h, w, C) -> (B, h, w, C)."""
        batch, height, width, channels = x.shape
        y = GroupNorm(1e-6, self.dtype, name="norm")(x).reshape(batch, height * width, 1, channels)
        q, k, v = (Dense(channels, dtype=self.dtype, name=name)(y) for name in "qkv")
        y = Dense(channels, dtype=self.dtype, name="proj_out")(attention(q, k, v))
        return x + y.reshape(x.shape)
