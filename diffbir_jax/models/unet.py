"""The denoising UNet of latent diffusion (Rombach et al. 2022) with spatial transformers."""

from collections.abc import Sequence
from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from diffbir_jax.models.attention import attention
from diffbir_jax.models.layers import (
    Dense,
    GroupNorm,
    LayerNorm,
    Norm,
    conv,
    norm,
    repeat_batch,
    timestep_embedding,
)


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of a `UNet` and of the `IRControlNet` that mirrors it; the defaults are Stable Diffusion 2.1's.

    Attributes:
        in_channels: channels of the noisy latent.
        out_channels: channels of the prediction.
        model_channels: channels of the first level.
        channel_mult: multiple of `model_channels` per level; all levels except the last halve the resolution.
        num_res_blocks: residual blocks per encoder level (the decoder has one more).
        attention_levels: levels with a transformer after each residual block; the middle always has one.
        num_head_channels: channels per attention head.
        context_dim: channels of the text embedding; None leaves out cross-attention.
        transformer_depth: transformer blocks after one residual block.
        norm: normalisation of the convolutions, see `layers.norm`; "group" for the published networks.
    """

    in_channels: int = 4
    out_channels: int = 4
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attention_levels: tuple[int, ...] = (0, 1, 2)
    num_head_channels: int = 64
    context_dim: int | None = 1024
    transformer_depth: int = 1
    norm: Norm = "group"

    @property
    def downsample(self) -> int:
        """Latent pixels per pixel of the lowest level."""
        return 2 ** (len(self.channel_mult) - 1)


class UNet(nn.Module):
    """Predicts eps or v from a noisy latent, with or without an `IRControlNet`'s outputs.

    With `remat`, the backward pass recomputes the inside of each block.
    """

    config: UNetConfig = UNetConfig()
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: Array, t: Array, context: Array | None = None, control: Sequence[Array] | None = None
    ) -> Array:
        """One evaluation.

        Args:
            x: (B, h, w, in_channels) noisy latent of any sides. Where a level halves an odd side, upsampling returns to
                the same side, as in diffusers.
            t: (B,) timesteps.
            context: (B n, tokens, context_dim) embeddings of n texts per latent, those of the first latent first. The
                layers that do not depend on the text are computed once. None if the configuration has no `context_dim`.
            control: output of an `IRControlNet`, added to the skip connections and to the middle's output.

        Returns:
            float32 (B n, h, w, out_channels), in the order of the context.

        Raises:
            ValueError: a size, the context or the number of controls does not fit the configuration.
        """
        config, dtype = self.config, self.dtype
        skips, x, embedding = UNetEncoder(config, dtype, self.remat, name="encoder")(x, t, context)
        if control is not None:
            if len(control) != len(skips) + 1:
                raise ValueError(f"got {len(control)} controls; this UNet takes {len(skips) + 1}")
            skips = [skip + added.astype(dtype) for skip, added in zip(skips, control)]
            # Controls enter only the decoder, so the encoder computes what it was trained for.
            x = x + control[-1].astype(dtype)
        for level, multiple in reversed(list(enumerate(config.channel_mult))):
            for i in range(config.num_res_blocks + 1):
                # Skips from before the first transformer have one row per latent, later ones one per text.
                x = jnp.concatenate([x, repeat_batch(skips.pop(), len(x))], axis=-1)
                transformer = level in config.attention_levels
                stage = _stage(self)(config, multiple, transformer, dtype, name=f"up_{level}_stage_{i}")
                x = stage(x, embedding, context)
            if level > 0:
                sides = (skips[-1].shape[1], skips[-1].shape[2])
                x = conv(x.shape[-1], name=f"up_{level}_upsample", upsample=True, dtype=dtype)(x, sides)
        x = nn.silu(norm(config.norm, name="norm_out", dtype=dtype)(x))
        return conv(config.out_channels, zero=True, name="conv_out", dtype=dtype)(x).astype(jnp.float32)


class UNetEncoder(nn.Module):
    """The UNet's contracting half, middle block and timestep embedding, shared with `IRControlNet`."""

    config: UNetConfig
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, t: Array, context: Array | None) -> tuple[list[Array], Array, Array]:
        """Encode.

        Args:
            x: (B, h, w, channels) with any number of channels.
            t: (B,) timesteps.
            context: (B n, tokens, context_dim), see `UNet`, or None.

        Returns:
            the skip connections from the highest resolution to the lowest, the middle block's output and the
            timestep embedding (B, 4 model_channels), all in the compute dtype. Outputs before the first transformer
            have B rows, all later ones B n.

        Raises:
            ValueError: a size or the context does not fit the configuration.
        """
        config, dtype = self.config, self.dtype
        _check_inputs(config, x, context)
        embedding = Dense(4 * config.model_channels, dtype=dtype, name="time_1")(
            timestep_embedding(t, config.model_channels)
        )
        embedding = Dense(4 * config.model_channels, dtype=dtype, name="time_2")(nn.silu(embedding))
        stage = _stage(self)
        x = conv(config.model_channels, name="conv_in", dtype=dtype)(x)
        skips = [x]
        for level, multiple in enumerate(config.channel_mult):
            transformer = level in config.attention_levels
            for i in range(config.num_res_blocks):
                name = f"down_{level}_stage_{i}"
                x = stage(config, multiple, transformer, dtype, name=name)(x, embedding, context)
                skips.append(x)
            if level + 1 < len(config.channel_mult):
                x = conv(x.shape[-1], stride=2, name=f"down_{level}_downsample", dtype=dtype)(x)
                skips.append(x)
        # The middle always has a transformer, at the lowest resolution, where it is cheapest.
        x = stage(config, multiple, True, dtype, name="mid_stage_0")(x, embedding, context)
        x = stage(config, multiple, False, dtype, name="mid_stage_1")(x, embedding, context)
        return skips, x, embedding


def _check_inputs(config: UNetConfig, x: Array, context: Array | None) -> None:
    given = None if context is None else context.shape[-1]
    # A missing text would otherwise fail deep in the network, with a message about shapes.
    if given != config.context_dim:
        raise ValueError(f"context has {given} channels; this configuration takes {config.context_dim}")
    if context is not None and len(context) % len(x):
        raise ValueError(f"{len(context)} contexts given for {len(x)} latents; give as many for each")


def _stage(module: "UNet | UNetEncoder") -> type["Stage"]:
    # Per stage: only the inputs of stages are kept, and one stage at a time is recomputed.
    return nn.remat(Stage) if module.remat else Stage


class Stage(nn.Module):
    """A residual block and, if the configuration has one here, a spatial transformer."""

    config: UNetConfig
    multiple: int
    transformer: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array, embedding: Array, context: Array | None) -> Array:
        """(B, h, w, C), (B, E), (B n, tokens, context_dim) -> (B n, h, w, multiple model_channels)."""
        features = self.multiple * self.config.model_channels
        x = ResBlock(features, self.dtype, self.config.norm, name="block")(x, embedding)
        if self.transformer:
            x = SpatialTransformer(self.config, self.dtype, name="transformer")(x, context)
        return x


class ResBlock(nn.Module):
    """Two normalised 3x3 convolutions with the timestep added between them, and a shortcut."""

    features: int
    dtype: DTypeLike
    norm: Norm = "group"
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Array, embedding: Array) -> Array:
        """(B, h, w, C), (B, E) -> (B, h, w, features)."""
        y = nn.silu(norm(self.norm, name="norm1", dtype=self.dtype, epsilon=self.epsilon)(x))
        y = conv(self.features, name="conv1", dtype=self.dtype)(y)
        time = Dense(self.features, dtype=self.dtype, name="time")(nn.silu(embedding))
        y = y + repeat_batch(time, len(y))[:, None, None]
        y = nn.silu(norm(self.norm, name="norm2", dtype=self.dtype, epsilon=self.epsilon)(y))
        # Zero start: an untrained block is the identity (Ho et al. 2020).
        y = conv(self.features, zero=True, name="conv2", dtype=self.dtype)(y)
        if x.shape[-1] != self.features:
            x = conv(self.features, 1, name="shortcut", dtype=self.dtype)(x)
        return x + y


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of a feature map, with linear projections in and out."""

    config: UNetConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array, context: Array | None) -> Array:
        """(B, h, w, C), (B n, tokens, context_dim) -> (B n, h, w, C)."""
        channels = x.shape[-1]
        # From here on rows differ by text. Repeating later than at the input saves the first layers' work.
        x = x if context is None else repeat_batch(x, len(context))
        y = GroupNorm(1e-6, self.dtype, name="norm")(x).reshape(x.shape[0], -1, channels)
        y = Dense(channels, dtype=self.dtype, name="proj_in")(y)
        for i in range(self.config.transformer_depth):
            y = TransformerBlock(self.config.num_head_channels, self.dtype, name=f"block_{i}")(y, context)
        zeros = nn.initializers.zeros
        y = Dense(channels, kernel_init=zeros, dtype=self.dtype, name="proj_out")(y)
        return x + y.reshape(x.shape)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention if there is a context, and a gated feed-forward; normalised before each."""

    head_channels: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array, context: Array | None) -> Array:
        """(B, N, C), (B, tokens, context_dim) -> (B, N, C)."""
        y = LayerNorm(self.dtype, name="norm1")(x)
        x = x + Attention(self.head_channels, self.dtype, name="self_attention")(y, y)
        if context is not None:
            y = LayerNorm(self.dtype, name="norm2")(x)
            x = x + Attention(self.head_channels, self.dtype, name="cross_attention")(y, context)
        y = LayerNorm(self.dtype, name="norm3")(x)
        return x + GatedFeedForward(self.dtype, name="feed_forward")(y)


class Attention(nn.Module):
    """Multi-head attention of one sequence to another."""

    head_channels: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array, source: Array) -> Array:
        """(B, N, C), (B, M, D) -> (B, N, C)."""
        channels = x.shape[-1]
        if channels % self.head_channels:
            raise ValueError(f"{channels} channels do not divide into heads of {self.head_channels}")

        def project(name: str, y: Array) -> Array:
            y = Dense(channels, use_bias=False, dtype=self.dtype, name=name)(y)
            return y.reshape(*y.shape[:2], -1, self.head_channels)

        y = attention(project("q", x), project("k", source), project("v", source))
        return Dense(channels, dtype=self.dtype, name="out")(y.reshape(x.shape))


class GatedFeedForward(nn.Module):
    """Feed-forward layer with a GELU gate, four times as wide as its input (GEGLU, Shazeer 2020)."""

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, N, C) -> (B, N, C)."""
        channels = x.shape[-1]
        # Twice the width, because half of it is the gate.
        y = Dense(8 * channels, dtype=self.dtype, name="in")(x)
        y, gate = jnp.split(y, 2, axis=-1)
        return Dense(channels, dtype=self.dtype, name="out")(y * nn.gelu(gate, approximate=False))
