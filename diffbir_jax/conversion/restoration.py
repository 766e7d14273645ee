"""Key tables of the restoration modules: the Flax parameter of each PyTorch key."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from diffbir_jax.conversion.engine import CONV, POINTWISE, Layout, Rule
from diffbir_jax.conversion.rules import Rules, conv, dense, norm, stacked
from diffbir_jax.models.bsrnet import BSRNetConfig
from diffbir_jax.models.scunet import SCUNetConfig
from diffbir_jax.models.srvgg import SRVGGConfig
from diffbir_jax.models.swinir import SwinIRConfig

# A 2x2 convolution of stride 2 and its transpose as dense layers: the 2x2 pixels become channels, (row, column, C).
DOWNSAMPLE = Layout(
    lambda x: x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0]),
    lambda x: x.reshape(2, 2, -1, x.shape[1]).transpose(3, 2, 0, 1),
)
UPSAMPLE = Layout(
    lambda x: x.transpose(0, 2, 3, 1).reshape(x.shape[0], -1),
    lambda x: x.reshape(x.shape[0], 2, 2, -1).transpose(0, 3, 1, 2),
)


def swinir_rules(config: SwinIRConfig) -> Rules:
    """`SwinIR` in its original layout; the Flax side stacks its residual groups."""
    # The reference unshuffles by a layer in front of the convolution.
    first = "conv_first.1" if config.unshuffle > 1 else "conv_first"
    yield Rule(f"{first}.weight", "conv_first/kernel", unshuffled_conv(config.unshuffle))
    yield Rule(f"{first}.bias", "conv_first/bias")
    yield from norm("patch_embed.norm", "patch_norm")
    for layer in range(config.num_layers):
        group = list(_residual_conv("conv", "groups/conv", config))
        for i in range(config.depth):
            group += _swin_block(f"residual_group.blocks.{i}", f"groups/block_{i}")
        # The keys of a group differ only in its number, which becomes the index along the stacked axis.
        for rule in group:
            yield Rule(f"layers.{layer}.{rule.key}", rule.path, rule.layout, layer)
    yield from norm("norm", "norm")
    yield from _residual_conv("conv_after_body", "conv_after_body", config)
    yield from _swinir_head(config)


def _swinir_head(config: SwinIRConfig) -> Rules:
    if config.upsampler == "pixelshuffledirect":
        yield from _shuffled("upsample.0", "upsample_0", config.scale)
        return
    if config.upsampler != "none":
        yield from conv("conv_before_upsample.0", "conv_before_upsample")
    if config.upsampler == "pixelshuffle":
        for i, factor in enumerate(config.shuffles):
            yield from _shuffled(f"upsample.{2 * i}", f"upsample_{i}", factor)
    if config.upsampler == "nearest+conv":
        for i in range(config.upsamplings):
            yield from conv(f"conv_up{i + 1}", f"conv_up{i + 1}")
        yield from conv("conv_hr", "conv_hr")
    yield from conv("conv_last", "conv_last")


def _residual_conv(key: str, path: str, config: SwinIRConfig) -> Rules:
    """One convolution, or three of which the middle one is narrow; their activations take a number, too."""
    if not config.bottleneck:
        yield from conv(key, path)
        return
    for i in range(3):
        yield from conv(f"{key}.{2 * i}", f"{path}_{i}")


Naming = Literal["bsrnet", "realesrgan", "old"]


def bsrnet_rules(config: BSRNetConfig, naming: Naming = "bsrnet") -> Rules:
    """`BSRNet` as in BSRGAN's checkpoint, with the names of ESRGAN, or as in Real-ESRGAN's, or as ESRGAN's before 2020.

    The Flax side stacks the blocks.
    """
    block, conv_name, body, up, hr, last = _bsrnet_names(config, naming)
    for i in range(config.num_blocks):
        for j in range(3):
            for k in range(5):
                key = f"{block.format(i, j + 1)}.{conv_name.format(k + 1)}"
                yield from stacked(i, conv(key, f"blocks/dense_{j}/conv_{k}"))
    first = "model.0" if naming == "old" else "conv_first"
    yield Rule(f"{first}.weight", "conv_first/kernel", unshuffled_conv(config.unshuffle))
    yield Rule(f"{first}.bias", "conv_first/bias")
    yield from conv(body, "conv_body")
    for i in range(config.upsamplings):
        yield from conv(up.format(3 * (i + 1) if naming == "old" else i + 1), f"conv_up{i + 1}")
    yield from conv(hr, "conv_hr")
    yield from conv(last, "conv_last")


def _bsrnet_names(config: BSRNetConfig, naming: Naming) -> tuple[str, str, str, str, str, str]:
    """Names of a dense block, its convolutions, and the convolutions after the blocks."""
    if naming == "bsrnet":
        return "RRDB_trunk.{}.RDB{}", "conv{}", "trunk_conv", "upconv{}", "HRconv", "conv_last"
    if naming == "realesrgan":
        return "body.{}.rdb{}", "conv{}", "conv_body", "conv_up{}", "conv_hr", "conv_last"
    # Layers by number: enlarging and activations have no weights.
    hr = 3 * config.upsamplings + 2
    trunk = f"model.1.sub.{config.num_blocks}"
    return "model.1.sub.{}.RDB{}", "conv{}.0", trunk, "model.{}", f"model.{hr}", f"model.{hr + 2}"


def srvgg_rules(config: SRVGGConfig) -> Rules:
    """`SRVGG` in its original layout: convolutions and slopes by turns; the Flax side stacks the middle ones."""
    yield from conv("body.0", "conv_first")
    yield Rule("body.1.weight", "slopes_first")
    for i in range(config.num_conv):
        yield from stacked(i, conv(f"body.{2 * i + 2}", "layers/conv"))
        yield from stacked(i, [Rule(f"body.{2 * i + 3}.weight", "layers/slopes")])
    yield from _shuffled(f"body.{2 * config.num_conv + 2}", "conv_last", config.scale)


def _shuffled(key: str, path: str, factor: int) -> Rules:
    """A convolution before pixel shuffling. PyTorch orders its output (C, row, column), Flax here (row, column, C)."""

    def blocks(x: np.ndarray) -> np.ndarray:
        return x.reshape(-1, factor**2, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)

    def back(x: np.ndarray) -> np.ndarray:
        return x.reshape(factor**2, -1, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)

    kernel = Layout(lambda x: CONV.to_flax(blocks(x)), lambda x: back(CONV.to_torch(x)))
    yield Rule(f"{key}.weight", f"{path}/kernel", kernel)
    yield Rule(f"{key}.bias", f"{path}/bias", Layout(blocks, back))


def scunet_rules(config: SCUNetConfig) -> Rules:
    """`SCUNet` in its original layout."""
    yield Rule("m_head.0.weight", "conv_first/kernel", CONV)
    for level in range(3):
        yield from _swin_conv_blocks(
            f"m_down{level + 1}", f"down_{level}", range(config.depths[level]), config
        )
        key = f"m_down{level + 1}.{config.depths[level]}.weight"
        yield Rule(key, f"down_{level}_downsample/kernel", DOWNSAMPLE)
    yield from _swin_conv_blocks("m_body", "body", range(config.depths[3]), config)
    for level in range(3):
        yield Rule(f"m_up{level + 1}.0.weight", f"up_{level}_upsample/kernel", UPSAMPLE)
        # A decoder level starts with its upsampling, so its blocks are numbered from 1.
        places = range(1, 1 + config.depths[6 - level])
        yield from _swin_conv_blocks(f"m_up{level + 1}", f"up_{level}", places, config)
    yield Rule("m_tail.0.weight", "conv_last/kernel", CONV)


def _swin_block(key: str, path: str) -> Rules:
    yield from norm(f"{key}.norm1", f"{path}/norm1")
    yield Rule(f"{key}.attn.relative_position_bias_table", f"{path}/attention/relative_position_bias")
    yield from dense(f"{key}.attn.qkv", f"{path}/attention/qkv")
    yield from dense(f"{key}.attn.proj", f"{path}/attention/proj")
    yield from norm(f"{key}.norm2", f"{path}/norm2")
    yield from dense(f"{key}.mlp.fc1", f"{path}/fc1")
    yield from dense(f"{key}.mlp.fc2", f"{path}/fc2")


def _swin_conv_blocks(key: str, path: str, places: Sequence[int], config: SCUNetConfig) -> Rules:
    for i, place in enumerate(places):
        yield from _swin_conv_block(f"{key}.{place}", f"{path}_block_{i}", config)


def _swin_conv_block(key: str, path: str, config: SCUNetConfig) -> Rules:
    for torch_name, name in (("conv1_1", "mix_in"), ("conv1_2", "mix_out")):
        yield Rule(f"{key}.{torch_name}.weight", f"{path}/{name}/kernel", POINTWISE)
        yield Rule(f"{key}.{torch_name}.bias", f"{path}/{name}/bias")
    for i in range(2):
        yield Rule(f"{key}.conv_block.{2 * i}.weight", f"{path}/conv{i + 1}/kernel", CONV)
    trans, swin = f"{key}.trans_block", f"{path}/swin"
    yield from norm(f"{trans}.ln1", f"{swin}/norm1")
    table = f"{trans}.msa.relative_position_params"
    yield Rule(table, f"{swin}/attention/relative_position_bias", _position_table(2 * config.window - 1))
    yield from dense(f"{trans}.msa.embedding_layer", f"{swin}/attention/qkv")
    yield from dense(f"{trans}.msa.linear", f"{swin}/attention/proj")
    yield from norm(f"{trans}.ln2", f"{swin}/norm2")
    for i in range(2):
        yield from dense(f"{trans}.mlp.{2 * i}", f"{swin}/fc{i + 1}")


def _position_table(side: int) -> Layout:
    """SCUNet stores (heads, rows, columns); SwinIR and the Flax side store (rows columns, heads)."""
    return Layout(lambda x: x.reshape(-1, side**2).T, lambda x: x.T.reshape(-1, side, side))


def unshuffled_conv(factor: int) -> Layout:
    """A convolution after pixel unshuffling. PyTorch orders its input (C, row, column), Flax here (row, column, C)."""

    def to_flax(x: np.ndarray) -> np.ndarray:
        out, channels, height, width = x.shape
        # Axes: (out, C, row, column, height, width) -> (height, width, row, column, C, out).
        x = x.reshape(out, -1, factor, factor, height, width).transpose(4, 5, 2, 3, 1, 0)
        return x.reshape(height, width, channels, out)

    def to_torch(x: np.ndarray) -> np.ndarray:
        height, width, channels, out = x.shape
        x = x.reshape(height, width, factor, factor, -1, out).transpose(5, 4, 2, 3, 0, 1)
        return x.reshape(out, channels, height, width)

    return Layout(to_flax, to_torch)
