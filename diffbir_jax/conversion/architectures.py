"""The networks that can be converted: the key table of each, and its sizes, read from the shapes of a state dict."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from diffbir_jax.conversion import abstract, restoration, stable_diffusion
from diffbir_jax.conversion.engine import Params
from diffbir_jax.conversion.rules import Rules
from diffbir_jax.models.bsrnet import BSRNetConfig
from diffbir_jax.models.clip import CLIPTextConfig
from diffbir_jax.models.header import describe, revive
from diffbir_jax.models.scunet import SCUNetConfig
from diffbir_jax.models.swinir import SwinIRConfig
from diffbir_jax.models.unet import UNetConfig
from diffbir_jax.models.vae import VAEConfig


class Shapes:
    """Shapes of a state dict, with a fallback for each query. The engine reports missing and odd shapes."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]):
        """Take key -> shape."""
        self._shapes = shapes

    def size(self, key: str, axis: int, default: int, multiple: int = 1) -> int:
        """Length of an axis; `default` if it is missing, 0 or no multiple of `multiple`."""
        shape = self._shapes.get(key, ())
        # A damaged file may have any shape here; the engine reports it later with all other problems.
        size = shape[axis] if axis < len(shape) else 0
        return size if size and size % multiple == 0 else default

    def count(self, pattern: str, default: int) -> int:
        """1 + the largest number that the group of `pattern` captures at the start of a key."""
        found = [int(match[1]) for key in self._shapes if (match := re.match(pattern, key))]
        return 1 + max(found) if found else default


@dataclass(frozen=True)
class Architecture:
    """A kind of network.

    Attributes:
        family: its name in the header of converted files.
        config: class of its sizes.
        sizes: shapes of a state dict (prefix removed) -> its sizes.
        rules: sizes -> the key table.
        abstract: sizes -> shapes of our parameters.
        ignore: sizes -> regular expressions of keys that hold no weights.
    """

    family: str
    config: type
    sizes: Callable[[Shapes], Any]
    rules: Callable[[Any], Rules]
    abstract: Callable[[Any], Params]
    ignore: Callable[[Any], tuple[str, ...]] = lambda config: ()

    def fit(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Any, Params]:
        """Sizes of the network in a state dict of these shapes (prefix removed), and the shapes of our parameters.

        Shapes that no network can have give the published sizes; the engine then reports the differences.
        """
        config = self.sizes(Shapes(shapes))
        try:
            return config, self.abstract(config)
        except Exception:  # an impossible network can raise anything
            return self.published()

    def published(self) -> tuple[Any, Params]:
        """The published sizes, and the shapes of our parameters."""
        config = self.config()
        return config, self.abstract(config)

    def describe(self, config: Any) -> dict[str, str]:
        """The header of a converted file; `revive` makes the sizes from it."""
        return describe(self.family, config)

    def revive(self, text: str) -> Any:
        """The sizes that `describe` wrote as "config".

        Raises:
            ValueError: the text is not such a description.
        """
        return revive(self.config, text)


def _swinir_sizes(shapes: Shapes) -> SwinIRConfig:
    width = shapes.size("conv_first.1.weight", 0, SwinIRConfig.embed_dim)
    # All blocks have the same sizes, so the first one is enough.
    block = "layers.0.residual_group.blocks.0"
    offsets = shapes.size(f"{block}.attn.relative_position_bias_table", 0, (2 * SwinIRConfig.window - 1) ** 2)
    return SwinIRConfig(
        embed_dim=width,
        num_layers=shapes.count(r"layers\.(\d+)\.", SwinIRConfig.num_layers),
        depth=shapes.count(r"layers\.0\.residual_group\.blocks\.(\d+)\.", SwinIRConfig.depth),
        num_heads=shapes.size(f"{block}.attn.relative_position_bias_table", 1, SwinIRConfig.num_heads),
        window=(math.isqrt(offsets) + 1) // 2,
        mlp_ratio=max(1, shapes.size(f"{block}.mlp.fc1.weight", 0, SwinIRConfig.mlp_ratio * width) // width),
        # The first convolution sees 3 unshuffle^2 channels.
        unshuffle=math.isqrt(shapes.size("conv_first.1.weight", 1, 3 * SwinIRConfig.unshuffle**2) // 3),
        num_feat=shapes.size("conv_before_upsample.0.weight", 0, SwinIRConfig.num_feat),
    )


def _bsrnet_sizes(shapes: Shapes) -> BSRNetConfig:
    first = shapes.size("RRDB_trunk.0.RDB1.conv1.weight", 0, BSRNetConfig.growth)
    return BSRNetConfig(
        num_feat=shapes.size("conv_first.weight", 0, BSRNetConfig.num_feat),
        num_blocks=shapes.count(r"(?:RRDB_trunk|body)\.(\d+)\.", BSRNetConfig.num_blocks),
        growth=shapes.size("body.0.rdb1.conv1.weight", 0, first),
        # Each upsampling convolution doubles the sides; they are numbered from 1.
        scale=2 ** max(1, shapes.count(r"(?:upconv|conv_up)(\d+)\.", 1 + BSRNetConfig().upsamplings) - 1),
    )


def _scunet_sizes(shapes: Shapes) -> SCUNetConfig:
    default = SCUNetConfig()
    dim = shapes.size("m_head.0.weight", 0, default.dim, multiple=16)
    heads = shapes.size("m_body.0.trans_block.msa.relative_position_params", 0, 1)
    side = shapes.size("m_body.0.trans_block.msa.relative_position_params", 1, 2 * default.window - 1)
    # A decoder level starts with its upsampling, so its blocks are counted from 1.
    parts = [*((f"m_down{i}", 0) for i in (1, 2, 3)), ("m_body", 0), *((f"m_up{i}", 1) for i in (3, 2, 1))]
    depths = [
        shapes.count(rf"{part}\.(\d+)\.trans_block", default.depths[i] + first) - first
        for i, (part, first) in enumerate(parts)
    ]
    return SCUNetConfig(dim, tuple(depths), max(1, 4 * dim // heads), (side + 1) // 2)  # pyright: ignore[reportArgumentType]


def unet_sizes(width: int, context: int) -> UNetConfig:
    """Stable Diffusion 2.1's UNet with another width. State dicts lack the number of heads; a divisor gives it."""
    return replace(
        UNetConfig(), model_channels=width, context_dim=context, num_head_channels=math.gcd(width, 64)
    )


def _unet_sizes(shapes: Shapes) -> UNetConfig:
    context = "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    default = UNetConfig()
    return unet_sizes(
        shapes.size("input_blocks.0.0.weight", 0, default.model_channels, multiple=32),
        shapes.size(context, 1, default.context_dim or 0),
    )


def vae_sizes(shapes: Shapes) -> VAEConfig:
    """Sizes of the autoencoder; its first key is the same in every layout."""
    return VAEConfig(ch=shapes.size("encoder.conv_in.weight", 0, VAEConfig.ch, multiple=32))


def clip_sizes(shapes: Shapes, words: str, places: str, layers: int) -> CLIPTextConfig:
    """Sizes of the text tower from the keys of its tables. State dicts do not contain the number of heads."""
    width = shapes.size(words, 1, CLIPTextConfig.width)
    return CLIPTextConfig(
        width=width,
        heads=math.gcd(width, CLIPTextConfig.heads),
        layers=layers,
        vocab=shapes.size(words, 0, CLIPTextConfig.vocab),
        tokens=shapes.size(places, 0, CLIPTextConfig.tokens),
    )


def _clip_sizes(shapes: Shapes) -> CLIPTextConfig:
    # A diffusers folder lacks the last block, which never runs, and the projection after it.
    unused = 0 if shapes.size("model.text_projection", 0, 0) else 1
    blocks = shapes.count(r"model\.transformer\.resblocks\.(\d+)\.", CLIPTextConfig.layers - unused)
    layers = blocks + unused
    return clip_sizes(shapes, "model.token_embedding.weight", "model.positional_embedding", max(2, layers))


# Constants of the architecture that PyTorch stores as buffers.
SWINIR_BUFFERS = (r".*\.relative_position_index", r".*\.attn_mask")

UNET = Architecture("unet", UNetConfig, _unet_sizes, stable_diffusion.unet_rules, abstract.abstract_unet)
CONTROL = Architecture(
    "control", UNetConfig, _unet_sizes, stable_diffusion.controlnet_rules, abstract.abstract_controlnet
)
VAE = Architecture("vae", VAEConfig, vae_sizes, stable_diffusion.vae_rules, abstract.abstract_vae)
TEXT = Architecture(
    "text",
    CLIPTextConfig,
    _clip_sizes,
    stable_diffusion.clip_rules,
    abstract.abstract_clip,
    stable_diffusion.clip_rest,
)
SWINIR = Architecture(
    "swinir",
    SwinIRConfig,
    _swinir_sizes,
    restoration.swinir_rules,
    abstract.abstract_swinir,
    lambda config: SWINIR_BUFFERS,
)
SCUNET = Architecture(
    "scunet", SCUNetConfig, _scunet_sizes, restoration.scunet_rules, abstract.abstract_scunet
)
BSRNET = Architecture(
    "bsrnet", BSRNetConfig, _bsrnet_sizes, restoration.bsrnet_rules, abstract.abstract_bsrnet
)
# The same network under the names of Real-ESRGAN's checkpoints.
REALESRGAN = replace(BSRNET, rules=lambda config: restoration.bsrnet_rules(config, "realesrgan"))
