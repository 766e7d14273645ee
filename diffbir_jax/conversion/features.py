"""Key tables of networks whose features a discriminator judges: CLIP's ConvNeXt by OpenCLIP, DINOv2 and DINO."""

import math

import jax
import jax.numpy as jnp

from diffbir_jax.conversion.architectures import Architecture
from diffbir_jax.conversion.engine import DENSE, Params, Rule
from diffbir_jax.conversion.rules import Rules, conv, dense, norm, stacked
from diffbir_jax.conversion.shapes import Shapes
from diffbir_jax.models.apply import abstract
from diffbir_jax.models.convnext import ConvNeXt, ConvNeXtConfig
from diffbir_jax.models.dino import DINO, DINOConfig


def convnext_rules(config: ConvNeXtConfig) -> Rules:
    """`ConvNeXt` by timm's names, inside the image tower `visual` of an OpenCLIP model; the Flax side stacks blocks."""
    yield from conv("trunk.stem.0", "stem")
    yield from norm("trunk.stem.1", "stem_norm")
    for stage, depth in enumerate(config.depths):
        key, path = f"trunk.stages.{stage}", f"stage_{stage}"
        if stage:
            yield from norm(f"{key}.downsample.0", f"{path}/norm")
            yield from conv(f"{key}.downsample.1", f"{path}/downsample")
        for i in range(depth):
            yield from stacked(i, _convnext_block(f"{key}.blocks.{i}", f"{path}/blocks"))
    yield from norm("trunk.head.norm", "norm")
    yield Rule("head.proj.weight", "projection/kernel", DENSE)


def _convnext_block(key: str, path: str) -> Rules:
    yield Rule(f"{key}.gamma", f"{path}/gamma")
    yield from conv(f"{key}.conv_dw", f"{path}/depthwise")
    yield from norm(f"{key}.norm", f"{path}/norm")
    for name in ("fc1", "fc2"):
        yield from dense(f"{key}.mlp.{name}", f"{path}/{name}")


def dino_rules(config: DINOConfig) -> Rules:
    """`DINO` as in the files of DINOv2 and DINO; the Flax side stacks blocks."""
    yield from conv("patch_embed.proj", "patches")
    yield Rule("cls_token", "class_token")
    yield Rule("pos_embed", "positions")
    if config.registers:
        yield Rule("register_tokens", "registers")
    for i in range(config.depth):
        yield from stacked(i, _dino_block(f"blocks.{i}", config.scaled))
    yield from norm("norm", "norm")


def _dino_block(key: str, scaled: bool) -> Rules:
    for i in (1, 2):
        yield from norm(f"{key}.norm{i}", f"blocks/norm{i}")
        yield from dense(f"{key}.mlp.fc{i}", f"blocks/fc{i}")
        if scaled:
            yield Rule(f"{key}.ls{i}.gamma", f"blocks/gamma{i}")
    for name in ("qkv", "proj"):
        yield from dense(f"{key}.attn.{name}", f"blocks/{name}")


def abstract_convnext(config: ConvNeXtConfig) -> Params:
    """Shapes of `ConvNeXt`'s parameters."""
    side = config.multiple
    return abstract(ConvNeXt(config), jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32))


def abstract_dino(config: DINOConfig) -> Params:
    """Shapes of `DINO`'s parameters."""
    side = config.patch
    return abstract(DINO(config), jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32))


def convnext_sizes(shapes: Shapes) -> ConvNeXtConfig:
    """Sizes of a ConvNeXt."""
    usual = ConvNeXtConfig()
    stages = range(min(shapes.count(r"trunk\.stages\.(\d+)\.", 4), len(usual.depths)))
    depths = (shapes.count(rf"trunk\.stages\.{i}\.blocks\.(\d+)\.", usual.depths[i]) for i in stages)
    widths = (shapes.size(f"trunk.stages.{i}.blocks.0.gamma", 0, usual.widths[i]) for i in stages)
    embedding = shapes.size("head.proj.weight", 0, usual.embedding)
    return ConvNeXtConfig(tuple(depths), tuple(widths), embedding)


def dino_sizes(shapes: Shapes) -> DINOConfig:
    """Sizes of a DINOv2 or DINO."""
    usual = DINOConfig()
    places = shapes.size("pos_embed", 1, usual.grid**2 + 1)
    return DINOConfig(
        shapes.most([("norm.weight", 0), ("cls_token", 2), ("pos_embed", 2)], usual.width),
        shapes.count(r"blocks\.(\d+)\.", usual.depth),
        shapes.size("patch_embed.proj.weight", 2, usual.patch),
        math.isqrt(places - 1),
        shapes.size("register_tokens", 1, 0),
        shapes.has(r"blocks\.\d+\.ls\d\."),
    )


CONVNEXT = Architecture("convnext", ConvNeXtConfig, convnext_sizes, convnext_rules, abstract_convnext)
DINO_VIT = Architecture(
    "dino",
    DINOConfig,
    dino_sizes,
    dino_rules,
    abstract_dino,
    # What stands in for hidden patches in training.
    ignore=lambda config: ("mask_token",),
    # ViT-S, B and L with and without registers; ViT-S and B of DINO.
    others=(
        *(
            DINOConfig(width, depth, registers=r)
            for r in (0, 4)
            for width, depth in ((384, 12), (768, 12), (1024, 24))
        ),
        *(DINOConfig(width, 12, p, 224 // p, scaled=False) for p in (8, 16) for width in (384, 768)),
    ),
)
