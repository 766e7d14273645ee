"""The vision transformer of DINOv2, for a discriminator on features.

Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", 2023; Darcet et al., "Vision Transformers
Need Registers", 2023. Without layer scales it is DINO's (Caron et al. 2021). Only inference is supported.
"""

import math
from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from diffbir_jax.files.trees import Params
from diffbir_jax.imaging.resize import resize
from diffbir_jax.models.attention import attention
from diffbir_jax.models.layers import Dense, Layer, LayerNorm, conv

# Channels of a head, in all sizes.
HEAD = 64
EPSILON = 1e-6


@dataclass(frozen=True)
class DINOConfig:
    """Sizes of a `DINO`; the defaults are those of DINOv2's ViT-B/14 without registers.

    Attributes:
        width: channels, a multiple of 64.
        depth: blocks, at least 3.
        patch: side of a patch in pixels.
        grid: side of the grid of patches that has a trained position each.
        registers: tokens without a place and without a meaning.
        scaled: whether blocks scale their channels before they are added: DINOv2, not DINO.
    """

    width: int = 768
    depth: int = 12
    patch: int = 14
    grid: int = 37
    registers: int = 0
    scaled: bool = True

    @staticmethod
    def of(params: Params) -> "DINOConfig":
        """The sizes of the network with these parameters, or with these shapes of parameters."""
        blocks, kernel = params["blocks"], params["patches"]["kernel"].shape
        registers = params["registers"].shape[1] if "registers" in params else 0
        grid = math.isqrt(params["positions"].shape[1] - 1)
        depth = blocks["norm1"]["scale"].shape[0]
        return DINOConfig(kernel[3], depth, kernel[0], grid, registers, "gamma1" in blocks)


class DINO(Layer):
    """Images to two maps of tokens and to the class token."""

    config: DINOConfig = DINOConfig()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image: Array) -> list[Array]:
        """Return features.

        Args:
            image: (B, H, W, 3), normalised by the mean and deviation of ImageNet; sides are multiples of
                `config.patch`.

        Returns:
            in `dtype`, the patches (B, H / patch, W / patch, width) after a third and two thirds of the blocks, and
            the class token (B, width) of the last block, normalised.

        Raises:
            ValueError: a side is no multiple of the patch.
        """
        config, (batch, height, width, _) = self.config, image.shape
        if height % config.patch or width % config.patch:
            raise ValueError(
                f"DINO: an image of {height}x{width} given, sides must be multiples of {config.patch}"
            )
        x = self._tokens(image)
        blocks = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=config.depth)
        x, after = blocks(config.scaled, self.dtype, name="blocks")(x, None)
        places = batch, height // config.patch, width // config.patch, config.width
        chosen = (after[config.depth * i // 3 - 1] for i in (1, 2))
        maps = [tokens[:, 1 + config.registers :].reshape(places) for tokens in chosen]
        return [*maps, LayerNorm(self.dtype, EPSILON, name="norm")(x)[:, 0]]

    def _tokens(self, image: Array) -> Array:
        """(B, H, W, 3) -> (B, 1 + registers + patches, width): the class token, the registers, patches by rows."""
        config, normal = self.config, nn.initializers.normal(0.02)
        x = conv(
            config.width,
            config.patch,
            stride=config.patch,
            padding=(0, 0),
            dtype=self.dtype,
            name="patches",
        )(image)
        first = self.param("class_token", normal, (1, 1, config.width))
        positions = self.param("positions", normal, (1, 1 + config.grid**2, config.width))
        x = x + self._spread(positions[:, 1:], x.shape[1:3]).astype(self.dtype)
        tokens = [first + positions[:, :1]]
        if config.registers:
            tokens.append(self.param("registers", normal, (1, config.registers, config.width)))
        front = jnp.concatenate(tokens, axis=1).astype(self.dtype)
        front = jnp.broadcast_to(front, (len(x), *front.shape[1:]))
        return jnp.concatenate([front, x.reshape(len(x), -1, config.width)], axis=1)

    def _spread(self, positions: Array, size: tuple[int, ...]) -> Array:
        """(1, grid^2, width) -> (1, height, width, width), resized as each network was trained to have it."""
        side = self.config.grid
        method = "bicubic_antialias" if self.config.registers else "bicubic"
        return resize(positions.reshape(1, side, side, -1), (size[0], size[1]), method)


class Block(Layer):
    """Self-attention and a feed-forward layer, normalised before each: the body that `DINO` scans."""

    scaled: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array, _: None) -> tuple[Array, Array]:
        """(B, N, C) -> (B, N, C), as the carry of a scan and as its result."""
        width = x.shape[-1]
        qkv = self._dense(3 * width, "qkv")(LayerNorm(self.dtype, EPSILON, name="norm1")(x))
        q, k, v = jnp.moveaxis(qkv.reshape(*x.shape[:2], 3, width // HEAD, HEAD), 2, 0)
        x = x + self._scaled(self._dense(width, "proj")(attention(q, k, v).reshape(x.shape)), "gamma1")
        y = self._dense(4 * width, "fc1")(LayerNorm(self.dtype, EPSILON, name="norm2")(x))
        x = x + self._scaled(self._dense(width, "fc2")(nn.gelu(y, approximate=False)), "gamma2")
        return x, x

    def _dense(self, features: int, name: str) -> Dense:
        return Dense(features, dtype=self.dtype, name=name)

    def _scaled(self, x: Array, name: str) -> Array:
        if not self.scaled:
            return x
        gamma = self.param(name, nn.initializers.constant(1e-5), (x.shape[-1],))
        return x * gamma.astype(self.dtype).reshape(1, 1, -1)
