"""The text tower of OpenCLIP (Radford et al. 2021, Cherti et al. 2023), which reads Stable Diffusion 2.1's prompts."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from diffbir_jax.models.layers import Dense, Layer, LayerNorm


@dataclass(frozen=True)
class CLIPTextConfig:
    """Sizes of a `CLIPText`; the defaults are those of ViT-H/14's text tower.

    Attributes:
        width: channels of the embeddings.
        heads: attention heads.
        layers: blocks of the trained tower; the last one does not run, see `CLIPText`.
        vocab: size of the vocabulary.
        tokens: length of every sequence.
    """

    width: int = 1024
    heads: int = 16
    layers: int = 24
    vocab: int = 49408
    tokens: int = 77


class CLIPText(Layer):
    """Tokens to one embedding each.

    The embeddings come from the penultimate block, through the final normalisation, as in Stable Diffusion 2.
    """

    config: CLIPTextConfig = CLIPTextConfig()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        """Embed.

        Args:
            tokens: int32 (B, config.tokens), as `diffbir_jax.text.tokenizer.tokenize` returns them.

        Returns:
            float32 (B, config.tokens, config.width).

        Raises:
            ValueError: the sequences have another length.
        """
        config = self.config
        if tokens.shape[1] != config.tokens:
            raise ValueError(
                f"sequences of {tokens.shape[1]} tokens given; pad or cut them to {config.tokens}"
            )
        normal = nn.initializers.normal
        words = self.param("token_embedding", normal(0.02), (config.vocab, config.width))
        places = self.param("positional_embedding", normal(0.01), (config.tokens, config.width))
        x = words[tokens].astype(self.dtype) + places.astype(self.dtype)[None]
        # One block less than trained: Stable Diffusion 2 takes the penultimate block's output.
        blocks = nn.scan(
            CLIPBlock, variable_axes={"params": 0}, split_rngs={"params": True}, length=config.layers - 1
        )
        x, _ = blocks(config.heads, self.dtype, name="blocks")(x, None)
        # float32, so that the UNet gets embeddings of full precision under any compute dtype.
        return LayerNorm(jnp.float32, name="norm")(x)


class CLIPBlock(nn.Module):
    """Causal self-attention and a feed-forward layer, normalised before each: the body that `CLIPText` scans."""

    heads: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array, _: None) -> tuple[Array, None]:
        """(B, N, C) -> (B, N, C), as the carry of a scan."""
        batch, length, channels = x.shape
        qkv = self._dense(3 * channels, "qkv")(LayerNorm(self.dtype, name="norm1")(x))
        q, k, v = jnp.moveaxis(qkv.reshape(batch, length, 3, self.heads, -1), 2, 0)
        y = _causal_attention(q, k, v).reshape(x.shape)
        x = x + self._dense(channels, "proj")(y)
        y = self._dense(4 * channels, "fc1")(LayerNorm(self.dtype, name="norm2")(x))
        # OpenCLIP uses the exact GELU; flax's default is the tanh approximation.
        return x + self._dense(channels, "fc2")(nn.gelu(y, approximate=False)), None

    def _dense(self, features: int, name: str) -> Dense:
        return Dense(features, dtype=self.dtype, name=name)


def _causal_attention(q: Array, k: Array, v: Array) -> Array:
    """Attention of (B, N, heads, D) arrays in which no token sees a later one, with a float32 softmax."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", q * q.shape[-1] ** -0.5, k, preferred_element_type=jnp.float32)
    earlier = jnp.tri(q.shape[1], dtype=bool)[None, None]
    weights = jax.nn.softmax(jnp.where(earlier, scores, -jnp.inf), axis=-1)
    return jnp.einsum("bhqk,bkhd->bqhd", weights.astype(v.dtype), v)
