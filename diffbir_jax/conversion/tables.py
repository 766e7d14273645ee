"""Key tables, one per checkpoint family: which PyTorch key is which Flax parameter."""

from collections.abc import Iterator

import numpy as np

from diffbir_jax.conversion.engine import CONV, DENSE, POINTWISE, Layout, Rule
from diffbir_jax.models.swinir import SwinIRConfig
from diffbir_jax.models.unet import UNetConfig
from diffbir_jax.models.vae import VAEConfig

Rules = Iterator[Rule]


def vae_rules(config: VAEConfig) -> Rules:
    """`AutoencoderKL` as in the `first_stage_model.` part of a Stable Diffusion file (prefix removed)."""
    levels = range(len(config.ch_mult))
    for half in ("encoder", "decoder"):
        yield from _conv(f"{half}.conv_in", f"{half}/conv_in")
        yield from _vae_middle(f"{half}.mid", f"{half}/mid", config)
        yield from _norm(f"{half}.norm_out", f"{half}/norm_out")
        yield from _conv(f"{half}.conv_out", f"{half}/conv_out")
    for level in levels:
        widens = config.ch_mult[level] != (1, *config.ch_mult)[level]
        for i in range(config.num_res_blocks):
            path = f"encoder/down_{level}_block_{i}"
            yield from _vae_block(f"encoder.down.{level}.block.{i}", path, widens and i == 0)
        if level < levels[-1]:
            yield from _conv(f"encoder.down.{level}.downsample.conv", f"encoder/down_{level}_downsample")
        narrows = level < levels[-1] and config.ch_mult[level] != config.ch_mult[level + 1]
        for i in range(config.num_res_blocks + 1):
            path = f"decoder/up_{level}_block_{i}"
            yield from _vae_block(f"decoder.up.{level}.block.{i}", path, narrows and i == 0)
        if level > 0:
            yield from _conv(f"decoder.up.{level}.upsample.conv", f"decoder/up_{level}_upsample")
    yield from _conv("quant_conv", "quant_conv")
    yield from _conv("post_quant_conv", "post_quant_conv")


def unet_rules(config: UNetConfig) -> Rules:
    """`UNet` as in the `model.diffusion_model.` part of a Stable Diffusion file (prefix removed)."""
    yield from _unet_encoder(config)
    levels = len(config.channel_mult)
    per_level = config.num_res_blocks + 1
    for level in range(levels):
        first = (levels - 1 - level) * per_level
        attends = level in config.attention_levels
        for i in range(per_level):
            key, path = f"output_blocks.{first + i}", f"up_{level}_stage_{i}"
            # Every decoder block sees concatenated features, so its width always changes.
            yield from _unet_stage(key, path, config, attends, shortcut=True)
        if level > 0:
            key = f"output_blocks.{first + per_level - 1}.{2 if attends else 1}.conv"
            yield from _conv(key, f"up_{level}_upsample")
    yield from _norm("out.0", "norm_out")
    yield from _conv("out.2", "conv_out")


def controlnet_rules(config: UNetConfig) -> Rules:
    """`IRControlNet` as in DiffBIR's own checkpoints."""
    yield from _unet_encoder(config)
    levels = len(config.channel_mult)
    skips = levels * (config.num_res_blocks + 1)
    for i in range(skips):
        yield from _conv(f"zero_convs.{i}.0", f"zero_conv_{i}")
    yield from _conv("middle_block_out.0", f"zero_conv_{skips}")


def swinir_rules(config: SwinIRConfig) -> Rules:
    """`SwinIR` in its original layout; the Flax side stacks its residual groups."""
    first, layout = "conv_first.1", _unshuffled_conv(config.unshuffle)
    yield Rule(f"{first}.weight", "conv_first/kernel", layout)
    yield Rule(f"{first}.bias", "conv_first/bias")
    yield from _norm("patch_embed.norm", "patch_norm")
    for layer in range(config.num_layers):
        group = list(_conv("conv", "groups/conv"))
        for i in range(config.depth):
            group += _swin_block(f"residual_group.blocks.{i}", f"groups/block_{i}")
        for rule in group:
            yield Rule(f"layers.{layer}.{rule.key}", rule.path, rule.layout, layer)
    yield from _norm("norm", "norm")
    yield from _conv("conv_after_body", "conv_after_body")
    yield from _conv("conv_before_upsample.0", "conv_before_upsample")
    for i in range(config.upsamplings):
        yield from _conv(f"conv_up{i + 1}", f"conv_up{i + 1}")
    yield from _conv("conv_hr", "conv_hr")
    yield from _conv("conv_last", "conv_last")


def _vae_middle(key: str, path: str, config: VAEConfig) -> Rules:
    yield from _vae_block(f"{key}.block_1", f"{path}/block_1", False)
    if config.mid_attention:
        yield from _norm(f"{key}.attn_1.norm", f"{path}/attention/norm")
        for name in ("q", "k", "v", "proj_out"):
            yield Rule(f"{key}.attn_1.{name}.weight", f"{path}/attention/{name}/kernel", POINTWISE)
            yield Rule(f"{key}.attn_1.{name}.bias", f"{path}/attention/{name}/bias")
    yield from _vae_block(f"{key}.block_2", f"{path}/block_2", False)


def _vae_block(key: str, path: str, shortcut: bool) -> Rules:
    for i in (1, 2):
        yield from _norm(f"{key}.norm{i}", f"{path}/norm{i}")
        yield from _conv(f"{key}.conv{i}", f"{path}/conv{i}")
    if shortcut:
        yield from _conv(f"{key}.nin_shortcut", f"{path}/shortcut")


def _unet_encoder(config: UNetConfig) -> Rules:
    yield from _dense("time_embed.0", "encoder/time_1")
    yield from _dense("time_embed.2", "encoder/time_2")
    yield from _conv("input_blocks.0.0", "encoder/conv_in")
    last = len(config.channel_mult) - 1
    for level, multiple in enumerate(config.channel_mult):
        first = 1 + level * (config.num_res_blocks + 1)
        widens = multiple != (1, *config.channel_mult)[level]
        for i in range(config.num_res_blocks):
            key, path = f"input_blocks.{first + i}", f"encoder/down_{level}_stage_{i}"
            attends = level in config.attention_levels
            yield from _unet_stage(key, path, config, attends, widens and i == 0)
        if level < last:
            key = f"input_blocks.{first + config.num_res_blocks}.0.op"
            yield from _conv(key, f"encoder/down_{level}_downsample")
    yield from _res_block("middle_block.0", "encoder/mid_stage_0/block", False)
    yield from _spatial_transformer("middle_block.1", "encoder/mid_stage_0/transformer", config)
    yield from _res_block("middle_block.2", "encoder/mid_stage_1/block", False)


def _unet_stage(key: str, path: str, config: UNetConfig, attends: bool, shortcut: bool) -> Rules:
    yield from _res_block(f"{key}.0", f"{path}/block", shortcut)
    if attends:
        yield from _spatial_transformer(f"{key}.1", f"{path}/transformer", config)


def _res_block(key: str, path: str, shortcut: bool) -> Rules:
    yield from _norm(f"{key}.in_layers.0", f"{path}/norm1")
    yield from _conv(f"{key}.in_layers.2", f"{path}/conv1")
    yield from _dense(f"{key}.emb_layers.1", f"{path}/time")
    yield from _norm(f"{key}.out_layers.0", f"{path}/norm2")
    yield from _conv(f"{key}.out_layers.3", f"{path}/conv2")
    if shortcut:
        yield from _conv(f"{key}.skip_connection", f"{path}/shortcut")


def _spatial_transformer(key: str, path: str, config: UNetConfig) -> Rules:
    yield from _norm(f"{key}.norm", f"{path}/norm")
    yield from _dense(f"{key}.proj_in", f"{path}/proj_in")
    yield from _dense(f"{key}.proj_out", f"{path}/proj_out")
    kinds = [("attn1", "self_attention", 1), ("attn2", "cross_attention", 2)]
    for i in range(config.transformer_depth):
        torch_block, block = f"{key}.transformer_blocks.{i}", f"{path}/block_{i}"
        for torch_name, name, norm in kinds if config.context_dim is not None else kinds[:1]:
            yield from _norm(f"{torch_block}.norm{norm}", f"{block}/norm{norm}")
            for part in "qkv":
                yield Rule(
                    f"{torch_block}.{torch_name}.to_{part}.weight", f"{block}/{name}/{part}/kernel", DENSE
                )
            yield from _dense(f"{torch_block}.{torch_name}.to_out.0", f"{block}/{name}/out")
        yield from _norm(f"{torch_block}.norm3", f"{block}/norm3")
        yield from _dense(f"{torch_block}.ff.net.0.proj", f"{block}/feed_forward/in")
        yield from _dense(f"{torch_block}.ff.net.2", f"{block}/feed_forward/out")


def _swin_block(key: str, path: str) -> Rules:
    yield from _norm(f"{key}.norm1", f"{path}/norm1")
    yield Rule(f"{key}.attn.relative_position_bias_table", f"{path}/attention/relative_position_bias")
    yield from _dense(f"{key}.attn.qkv", f"{path}/attention/qkv")
    yield from _dense(f"{key}.attn.proj", f"{path}/attention/proj")
    yield from _norm(f"{key}.norm2", f"{path}/norm2")
    yield from _dense(f"{key}.mlp.fc1", f"{path}/fc1")
    yield from _dense(f"{key}.mlp.fc2", f"{path}/fc2")


def _unshuffled_conv(factor: int) -> Layout:
    """A convolution after pixel unshuffling: PyTorch orders its input (C, row, column), here (row, column, C)."""

    def to_flax(x: np.ndarray) -> np.ndarray:
        out, channels, height, width = x.shape
        x = x.reshape(out, -1, factor, factor, height, width).transpose(4, 5, 2, 3, 1, 0)
        return x.reshape(height, width, channels, out)

    def to_torch(x: np.ndarray) -> np.ndarray:
        height, width, channels, out = x.shape
        x = x.reshape(height, width, factor, factor, -1, out).transpose(5, 4, 2, 3, 0, 1)
        return x.reshape(out, channels, height, width)

    return Layout(to_flax, to_torch)


def _conv(key: str, path: str) -> Rules:
    yield Rule(f"{key}.weight", f"{path}/kernel", CONV)
    yield Rule(f"{key}.bias", f"{path}/bias")


def _dense(key: str, path: str) -> Rules:
    yield Rule(f"{key}.weight", f"{path}/kernel", DENSE)
    yield Rule(f"{key}.bias", f"{path}/bias")


def _norm(key: str, path: str) -> Rules:
    yield Rule(f"{key}.weight", f"{path}/scale")
    yield Rule(f"{key}.bias", f"{path}/bias")
