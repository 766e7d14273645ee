"""Key tables of the restoration modules: the Flax parameter of each PyTorch key."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from diffbir_jax.conversion.engine import CONV, POINTWISE, Layout, Rule
from diffbir_jax.conversion.rules import Rules, conv, dense, norm, stacked
from diffbir_jax.models.bsrnet import BSRNetConfig
from diffbir_jax.models.scunet import SCUNetConfig
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
    first, layout = "conv_first.1", _unshuffled_conv(config.unshuffle)
    yield Rule(f"{first}.weight", "conv_first/kernel", layout)
    yield Rule(f"{first}.bias", "conv_first/bias")
    yield from norm("patch_embed.norm", "patch_norm")
    for layer in range(config.num_layers):
        group = list(conv("conv", "groups/conv"))
        for i in range(config.depth):
            group += _swin_block(f"residual_group.blocks.{i}", f"groups/block_{i}")
        # The keys of a group differ only in its number, which becomes the index along the stacked axis.
        for rule in group:
            yield Rule(f"layers.{layer}.{rule.key}", rule.path, rule.layout, layer)
    yield from norm("norm", "norm")
    yield from conv("conv_after_body", "conv_after_body")
    yield from conv("conv_before_upsample.0", "conv_before_upsample")
    for i in range(config.upsamplings):
        yield from conv(f"conv_up{i + 1}", f"conv_up{i + 1}")
    yield from conv("conv_hr", "conv_hr")
    yield from conv("conv_last", "conv_last")


def bsrnet_rules(config: BSRNetConfig, naming: Literal["bsrnet", "realesrgan"] = "bsrnet") -> Rules:
    """`BSRNet` as in BSRGAN's checkpoint, with the names of ESRGAN, or as in Real-ESRGAN's.

    The Flax side stacks the blocks.
    """
    old = naming == "bsrnet"
    for i in range(config.num_blocks):
        for j in range(3):
            block = f"RRDB_trunk.{i}.RDB{j + 1}" if old else f"body.{i}.rdb{j + 1}"
            for k in range(5):
                yield from stacked(i, conv(f"{block}.conv{k + 1}", f"blocks/dense_{j}/conv_{k}"))
    yield from conv("conv_first", "conv_first")
    yield from conv("trunk_conv" if old else "conv_body", "conv_body")
    for i in range(config.upsamplings):
        yield from conv(f"upconv{i + 1}" if old else f"conv_up{i + 1}", f"conv_up{i + 1}")
    yield from conv("HRconv" if old else "conv_hr", "conv_hr")
    yield from conv("conv_last", "conv_last")


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


def _unshuffled_conv(factor: int) -> Layout:
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
