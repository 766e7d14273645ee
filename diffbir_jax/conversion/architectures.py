"""The networks that can be converted: the key table of each, and its sizes, read from the shapes of a state dict."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Generic, TypeVar

from diffbir_jax.conversion import abstract, restoration, stable_diffusion
from diffbir_jax.conversion.engine import Params
from diffbir_jax.conversion.rules import Rules
from diffbir_jax.conversion.shapes import Shapes
from diffbir_jax.models.bsrnet import BSRNetConfig
from diffbir_jax.models.clip import CLIPTextConfig
from diffbir_jax.models.header import describe, revive
from diffbir_jax.models.scunet import SCUNetConfig
from diffbir_jax.models.srvgg import SRVGGConfig
from diffbir_jax.models.swinir import SwinIRConfig
from diffbir_jax.models.unet import UNetConfig
from diffbir_jax.models.vae import VAEConfig

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")


@dataclass(frozen=True)
class Architecture(Generic[Config]):
    """A kind of network.

    Attributes:
        family: its name in the header of converted files.
        config: class of its sizes.
        sizes: shapes of a state dict (prefix removed) -> its sizes.
        rules: sizes -> the key table.
        abstract: sizes -> shapes of our parameters.
        ignore: sizes -> regular expressions of keys that hold no weights.
        others: further sizes that were published.
    """

    family: str
    config: type[Config]
    sizes: Callable[[Shapes], Config]
    rules: Callable[[Config], Rules]
    abstract: Callable[[Config], Params]
    ignore: Callable[[Config], tuple[str, ...]] = lambda config: ()
    others: tuple[Config, ...] = ()

    def fit(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Config, Params]:
        """Sizes of the network in a state dict of these shapes (prefix removed), and the shapes of our parameters.

        Shapes that no network can have give the published sizes; the engine then reports the differences.
        """
        config = self.sizes(Shapes(shapes))
        try:
            return config, self.abstract(config)
        except Exception:  # an impossible network can raise anything
            return self.published()

    def published(self) -> tuple[Config, Params]:
        """The published sizes, and the shapes of our parameters."""
        config = self.config()
        return config, self.abstract(config)

    def nearest(self, config: Config) -> Config:
        """The published sizes that differ least from `config`."""
        return min((self.config(), *self.others), key=lambda known: len(differences(config, known)))

    def describe(self, config: Config) -> dict[str, str]:
        """The header of a converted file; `revive` makes the sizes from it."""
        return describe(self.family, config)

    def revive(self, text: str) -> Config:
        """The sizes that `describe` wrote as "config".

        Raises:
            ValueError: the text is not such a description.
        """
        return revive(self.config, text)


def differences(config: "DataclassInstance", known: "DataclassInstance") -> list[str]:
    """Names of the sizes in which two configurations differ."""
    return [
        field.name for field in fields(config) if getattr(config, field.name) != getattr(known, field.name)
    ]


def _swinir_sizes(shapes: Shapes) -> SwinIRConfig:
    default = SwinIRConfig()
    shapes.colour("conv_first.weight")
    firsts = (
        "conv_first.1.weight",
        "conv_first.weight",
        "patch_embed.norm.weight",
        "norm.weight",
        "norm.bias",
    )
    width = shapes.most([(key, 0) for key in firsts], default.embed_dim)
    # All blocks have the same sizes; one of them may be damaged.
    blocks = [f"layers.{i}.residual_group.blocks.{j}" for i in range(3) for j in range(2)]
    tables = [f"{block}.attn.relative_position_bias_table" for block in blocks]
    offsets = shapes.most([(key, 0) for key in tables], (2 * default.window - 1) ** 2)
    hidden = shapes.most([(f"{block}.mlp.fc1.weight", 0) for block in blocks], default.mlp_ratio * width)
    return replace(
        _swinir_head(shapes, default),
        embed_dim=width,
        num_layers=shapes.count(r"layers\.(\d+)\.", default.num_layers),
        depth=shapes.count(r"layers\.\d+\.residual_group\.blocks\.(\d+)\.", default.depth),
        num_heads=shapes.most([(key, 1) for key in tables], default.num_heads),
        window=shapes.window((math.isqrt(offsets) + 1) // 2),
        mlp_ratio=max(1, hidden // width),
        bottleneck=shapes.has(r"conv_after_body\.\d\.|layers\.0\.conv\.\d\."),
    )


def _swinir_head(shapes: Shapes, default: SwinIRConfig) -> SwinIRConfig:
    """What stands before and after the transformer."""
    feat = [("conv_before_upsample.0.weight", 0), ("conv_hr.weight", 0), ("conv_last.weight", 1)]
    num_feat = shapes.most([*feat, ("conv_before_upsample.0.bias", 0)], default.num_feat)
    if shapes.has(r"conv_up\d|conv_hr") or not shapes.has("upsample|conv_last|conv_before_upsample"):
        factor = 2 ** (shapes.count(r"conv_up([1-9])\.", 1 + default.upsamplings) - 1)
        unshuffle = _unshuffled(
            shapes, ["conv_first.1.weight"], factor if shapes.has(r"conv_first\.1\.") else 1
        )
        return replace(default, num_feat=num_feat, unshuffle=unshuffle, scale=max(1, factor // unshuffle))
    if not shapes.has("upsample"):
        return replace(default, upsampler="none", unshuffle=1)
    if not shapes.has("conv_before_upsample|conv_last"):
        area = shapes.most([("upsample.0.weight", 0), ("upsample.0.bias", 0)], 12) // 3
        return replace(default, upsampler="pixelshuffledirect", unshuffle=1, scale=math.isqrt(area))
    area = shapes.most([("upsample.0.weight", 0), ("upsample.0.bias", 0)], 4 * num_feat) // num_feat
    # The layers between these convolutions have no weights.
    doublings = (shapes.count(r"upsample\.(\d)\.", 1) + 1) // 2
    scale = 3 if area == 9 else 2**doublings
    return replace(default, upsampler="pixelshuffle", unshuffle=1, num_feat=num_feat, scale=scale)


def _unshuffled(shapes: Shapes, keys: Sequence[str], default: int) -> int:
    """Side of the pixel blocks that the first convolution sees as channels: 3 side^2 of them."""
    side = math.isqrt(shapes.most([(key, 1) for key in keys], 3 * default**2, multiple=3) // 3)
    return side if side in (1, 2, 4, 8) else default


def _bsrnet_sizes(shapes: Shapes) -> BSRNetConfig:
    default = BSRNetConfig()
    shapes.colour("conv_first.weight")
    blocks = ("RRDB_trunk.{}.RDB{}", "body.{}.rdb{}")
    dense = [f"{block.format(i, j)}.conv1.weight" for block in blocks for i in range(2) for j in (1, 2, 3)]
    ends = [("conv_first.weight", 0), ("conv_first.bias", 0), ("conv_last.weight", 1)]
    # Each upsampling convolution doubles the sides; they are numbered from 1.
    factor = 2 ** max(1, shapes.count(r"(?:upconv|conv_up)(\d+)\.", 1 + default.upsamplings) - 1)
    unshuffle = min(_unshuffled(shapes, ["conv_first.weight"], 1), factor)
    return BSRNetConfig(
        num_feat=shapes.most(ends, default.num_feat),
        num_blocks=shapes.count(r"(?:RRDB_trunk|body)\.(\d+)\.", default.num_blocks),
        growth=shapes.most([(key, 0) for key in dense], default.growth),
        scale=factor // unshuffle,
        unshuffle=unshuffle,
    )


def _old_esrgan_sizes(shapes: Shapes) -> BSRNetConfig:
    """The layout before 2020: layers by their number, those without weights included."""
    default = BSRNetConfig()
    ends = [("model.0.weight", 0), ("model.0.bias", 0), ("model.1.sub.0.RDB1.conv1.0.weight", 1)]
    dense = [f"model.1.sub.{i}.RDB{j}.conv1.0.weight" for i in range(2) for j in (1, 2, 3)]
    # Two layers, three for each doubling, three at the end.
    layers = shapes.count(r"model\.(\d+)\.", 5 + 3 * default.upsamplings)
    return BSRNetConfig(
        num_feat=shapes.most(ends, default.num_feat),
        num_blocks=shapes.count(r"model\.1\.sub\.(\d+)\.RDB", default.num_blocks),
        growth=shapes.most([(key, 0) for key in dense], default.growth),
        scale=2 ** max(1, (layers - 5) // 3),
    )


def _srvgg_sizes(shapes: Shapes) -> SRVGGConfig:
    default = SRVGGConfig()
    # A convolution and an activation per layer, and one more convolution.
    last = shapes.count(r"body\.(\d+)\.", 2 * default.num_conv + 3) - 1
    area = shapes.most([(f"body.{last}.weight", 0), (f"body.{last}.bias", 0)], 3 * default.scale**2)
    firsts = [(f"body.{i}.weight", 0) for i in (0, 1, 3)]
    return SRVGGConfig(
        num_feat=shapes.most([*firsts, ("body.0.bias", 0)], default.num_feat),
        num_conv=max(1, (last - 2) // 2),
        scale=max(1, math.isqrt(area // 3)),
    )


def _scunet_sizes(shapes: Shapes) -> SCUNetConfig:
    default = SCUNetConfig()
    # A decoder level starts with its upsampling, so its blocks are counted from 1.
    parts = [*((f"m_down{i}", 0) for i in (1, 2, 3)), ("m_body", 0), *((f"m_up{i}", 1) for i in (3, 2, 1))]
    tables = [f"{part}.{i}.trans_block.msa.relative_position_params" for part, i in [*parts, ("m_body", 1)]]
    dim = shapes.most([("m_head.0.weight", 0), ("m_tail.0.weight", 1)], default.dim, multiple=16)
    body = [f"m_body.{i}.trans_block.msa.relative_position_params" for i in range(4)]
    heads = shapes.most([(key, 0) for key in body], max(1, 4 * dim // default.head_dim))
    side = shapes.most([(key, 1) for key in tables], 2 * default.window - 1)
    depths = [
        shapes.count(rf"{part}\.(\d+)\.trans_block", default.depths[i] + first) - first
        for i, (part, first) in enumerate(parts)
    ]
    return SCUNetConfig(dim, tuple(depths), max(1, 4 * dim // heads), shapes.window((side + 1) // 2))  # pyright: ignore[reportArgumentType]


def unet_sizes(width: int, context: int) -> UNetConfig:
    """Stable Diffusion 2.1's UNet with another width. State dicts lack the number of heads; a divisor gives it."""
    return replace(
        UNetConfig(), model_channels=width, context_dim=context, num_head_channels=math.gcd(width, 64)
    )


def _unet_sizes(shapes: Shapes) -> UNetConfig:
    context = [
        f"input_blocks.{i}.1.transformer_blocks.0.attn2.to_{part}.weight" for i in (1, 2) for part in "kv"
    ]
    width = [("input_blocks.0.0.weight", 0), ("input_blocks.0.0.bias", 0), ("time_embed.0.weight", 1)]
    default = UNetConfig()
    return unet_sizes(
        shapes.most(width, default.model_channels, multiple=32),
        shapes.most([(key, 1) for key in context], default.context_dim or 0),
    )


def vae_sizes(shapes: Shapes) -> VAEConfig:
    """Sizes of the autoencoder; its first key is the same in every layout."""
    places = [("encoder.conv_in.weight", 0), ("encoder.conv_in.bias", 0), ("decoder.conv_out.weight", 1)]
    return VAEConfig(ch=shapes.most(places, VAEConfig.ch, multiple=32))


def clip_sizes(shapes: Shapes, words: str, places: str, layers: int) -> CLIPTextConfig:
    """Sizes of the text tower from the keys of its tables. State dicts do not contain the number of heads."""
    width = shapes.most([(words, 1), (places, 1)], CLIPTextConfig.width)
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
# The sizes that SwinIR's own networks share (Liang et al. 2021, main_test_swinir.py).
_OFFICIAL = SwinIRConfig(num_layers=6, unshuffle=1)
SWINIR = Architecture(
    "swinir",
    SwinIRConfig,
    _swinir_sizes,
    restoration.swinir_rules,
    abstract.abstract_swinir,
    lambda config: SWINIR_BUFFERS,
    (
        *(replace(_OFFICIAL, upsampler="pixelshuffle", scale=scale) for scale in (2, 3, 4, 8)),
        *(replace(_OFFICIAL, scale=scale) for scale in (2, 4)),
        replace(_OFFICIAL, embed_dim=240, num_layers=9, num_heads=8, scale=4, bottleneck=True),
        *(
            replace(_OFFICIAL, embed_dim=60, num_layers=4, upsampler="pixelshuffledirect", scale=scale)
            for scale in (2, 3, 4)
        ),
        *(replace(_OFFICIAL, upsampler="none", window=window) for window in (7, 8)),
    ),
)
SCUNET = Architecture(
    "scunet", SCUNetConfig, _scunet_sizes, restoration.scunet_rules, abstract.abstract_scunet
)
BSRNET = Architecture(
    "bsrnet",
    BSRNetConfig,
    _bsrnet_sizes,
    restoration.bsrnet_rules,
    abstract.abstract_bsrnet,
    # BSRGAN x2, Real-ESRGAN x2plus and its network for anime.
    others=(BSRNetConfig(scale=2), BSRNetConfig(scale=2, unshuffle=2), BSRNetConfig(num_blocks=6)),
)
# The same network under the names of Real-ESRGAN's checkpoints, and under those before 2020.
REALESRGAN = replace(BSRNET, rules=lambda config: restoration.bsrnet_rules(config, "realesrgan"))
OLD_ESRGAN = replace(
    BSRNET, sizes=_old_esrgan_sizes, rules=lambda config: restoration.bsrnet_rules(config, "old")
)
SRVGG = Architecture(
    "srvgg",
    SRVGGConfig,
    _srvgg_sizes,
    restoration.srvgg_rules,
    abstract.abstract_srvgg,
    others=(SRVGGConfig(num_conv=16),),  # for animated films
)
