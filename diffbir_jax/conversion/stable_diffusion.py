"""Key tables of Stable Diffusion's networks and of the IRControlNet: the Flax parameter of each PyTorch key."""

from diffbir_jax.conversion.engine import DENSE, POINTWISE, Rule
from diffbir_jax.conversion.rules import Rules, conv, dense, norm, stacked
from diffbir_jax.models.clip import CLIPTextConfig
from diffbir_jax.models.unet import UNetConfig
from diffbir_jax.models.vae import VAEConfig


def vae_rules(config: VAEConfig) -> Rules:
    """`AutoencoderKL` as in the `first_stage_model.` part of a Stable Diffusion file (prefix removed)."""
    levels = range(len(config.ch_mult))
    for half in ("encoder", "decoder"):
        yield from conv(f"{half}.conv_in", f"{half}/conv_in")
        yield from _vae_middle(f"{half}.mid", f"{half}/mid", config)
        yield from norm(f"{half}.norm_out", f"{half}/norm_out")
        yield from conv(f"{half}.conv_out", f"{half}/conv_out")
    for level in levels:
        widens = config.ch_mult[level] != (1, *config.ch_mult)[level]
        for i in range(config.num_res_blocks):
            path = f"encoder/down_{level}_block_{i}"
            yield from _vae_block(f"encoder.down.{level}.block.{i}", path, widens and i == 0)
        if level < levels[-1]:
            yield from conv(f"encoder.down.{level}.downsample.conv", f"encoder/down_{level}_downsample")
        # The decoder enters a level with the width of the level below it.
        narrows = level < levels[-1] and config.ch_mult[level] != config.ch_mult[level + 1]
        for i in range(config.num_res_blocks + 1):
            path = f"decoder/up_{level}_block_{i}"
            yield from _vae_block(f"decoder.up.{level}.block.{i}", path, narrows and i == 0)
        if level > 0:
            yield from conv(f"decoder.up.{level}.upsample.conv", f"decoder/up_{level}_upsample")
    yield from conv("quant_conv", "quant_conv")
    yield from conv("post_quant_conv", "post_quant_conv")


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
            # Every decoder block takes concatenated features, so its width always changes.
            yield from _unet_stage(key, path, config, attends, shortcut=True)
        if level > 0:
            # The upsampling is part of the level's last block, after its transformer if there is one.
            key = f"output_blocks.{first + per_level - 1}.{2 if attends else 1}.conv"
            yield from conv(key, f"up_{level}_upsample")
    yield from norm("out.0", "norm_out")
    yield from conv("out.2", "conv_out")


def clip_rules(config: CLIPTextConfig) -> Rules:
    """`CLIPText` as in the `cond_stage_model.` part of a Stable Diffusion file (prefix removed).

    The Flax side stacks the blocks. The file holds more than these parameters: see `clip_rest`.
    """
    yield Rule("model.token_embedding.weight", "token_embedding")
    yield Rule("model.positional_embedding", "positional_embedding")
    # The last block never runs, so it has no parameters here.
    for i in range(config.layers - 1):
        yield from stacked(i, _clip_block(f"model.transformer.resblocks.{i}", "blocks"))
    yield from norm("model.ln_final", "norm")


def clip_rest(config: CLIPTextConfig) -> tuple[str, ...]:
    """Regular expressions of the keys other than those of `clip_rules`.

    Stable Diffusion reads the penultimate block, so the last block and the projection after it never run. Files that
    were made from a diffusers folder lack both and include a table of positions.
    """
    last = rf"model\.transformer\.resblocks\.{config.layers - 1}\..*"
    rest = r"model\.(text_projection|logit_scale|attn_mask|transformer\.text_model\.embeddings\.position_ids)"
    return last, rest


def controlnet_rules(config: UNetConfig) -> Rules:
    """`IRControlNet` as in DiffBIR's own checkpoints."""
    yield from _unet_encoder(config)
    levels = len(config.channel_mult)
    # One skip after the first convolution, after each residual block and after each downsampling.
    skips = levels * (config.num_res_blocks + 1)
    for i in range(skips):
        yield from conv(f"zero_convs.{i}.0", f"zero_conv_{i}")
    yield from conv("middle_block_out.0", f"zero_conv_{skips}")


def _clip_block(key: str, path: str) -> Rules:
    yield from norm(f"{key}.ln_1", f"{path}/norm1")
    yield Rule(f"{key}.attn.in_proj_weight", f"{path}/qkv/kernel", DENSE)
    yield Rule(f"{key}.attn.in_proj_bias", f"{path}/qkv/bias")
    yield from dense(f"{key}.attn.out_proj", f"{path}/proj")
    yield from norm(f"{key}.ln_2", f"{path}/norm2")
    yield from dense(f"{key}.mlp.c_fc", f"{path}/fc1")
    yield from dense(f"{key}.mlp.c_proj", f"{path}/fc2")


def _vae_middle(key: str, path: str, config: VAEConfig) -> Rules:
    yield from _vae_block(f"{key}.block_1", f"{path}/block_1", False)
    if config.mid_attention:
        yield from norm(f"{key}.attn_1.norm", f"{path}/attention/norm")
        for name in ("q", "k", "v", "proj_out"):
            yield Rule(f"{key}.attn_1.{name}.weight", f"{path}/attention/{name}/kernel", POINTWISE)
            yield Rule(f"{key}.attn_1.{name}.bias", f"{path}/attention/{name}/bias")
    yield from _vae_block(f"{key}.block_2", f"{path}/block_2", False)


def _vae_block(key: str, path: str, shortcut: bool) -> Rules:
    for i in (1, 2):
        yield from norm(f"{key}.norm{i}", f"{path}/norm{i}")
        yield from conv(f"{key}.conv{i}", f"{path}/conv{i}")
    if shortcut:
        yield from conv(f"{key}.nin_shortcut", f"{path}/shortcut")


def _unet_encoder(config: UNetConfig) -> Rules:
    yield from dense("time_embed.0", "encoder/time_1")
    yield from dense("time_embed.2", "encoder/time_2")
    yield from conv("input_blocks.0.0", "encoder/conv_in")
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
            yield from conv(key, f"encoder/down_{level}_downsample")
    yield from _res_block("middle_block.0", "encoder/mid_stage_0/block", False)
    yield from _spatial_transformer("middle_block.1", "encoder/mid_stage_0/transformer", config)
    yield from _res_block("middle_block.2", "encoder/mid_stage_1/block", False)


def _unet_stage(key: str, path: str, config: UNetConfig, attends: bool, shortcut: bool) -> Rules:
    yield from _res_block(f"{key}.0", f"{path}/block", shortcut)
    if attends:
        yield from _spatial_transformer(f"{key}.1", f"{path}/transformer", config)


def _res_block(key: str, path: str, shortcut: bool) -> Rules:
    yield from norm(f"{key}.in_layers.0", f"{path}/norm1")
    yield from conv(f"{key}.in_layers.2", f"{path}/conv1")
    yield from dense(f"{key}.emb_layers.1", f"{path}/time")
    yield from norm(f"{key}.out_layers.0", f"{path}/norm2")
    yield from conv(f"{key}.out_layers.3", f"{path}/conv2")
    if shortcut:
        yield from conv(f"{key}.skip_connection", f"{path}/shortcut")


def _spatial_transformer(key: str, path: str, config: UNetConfig) -> Rules:
    yield from norm(f"{key}.norm", f"{path}/norm")
    yield from dense(f"{key}.proj_in", f"{path}/proj_in")
    yield from dense(f"{key}.proj_out", f"{path}/proj_out")
    kinds = [("attn1", "self_attention", 1), ("attn2", "cross_attention", 2)]
    for i in range(config.transformer_depth):
        torch_block, block = f"{key}.transformer_blocks.{i}", f"{path}/block_{i}"
        for torch_name, name, number in kinds if config.context_dim is not None else kinds[:1]:
            yield from norm(f"{torch_block}.norm{number}", f"{block}/norm{number}")
            for part in "qkv":
                yield Rule(
                    f"{torch_block}.{torch_name}.to_{part}.weight", f"{block}/{name}/{part}/kernel", DENSE
                )
            yield from dense(f"{torch_block}.{torch_name}.to_out.0", f"{block}/{name}/out")
        yield from norm(f"{torch_block}.norm3", f"{block}/norm3")
        yield from dense(f"{torch_block}.ff.net.0.proj", f"{block}/feed_forward/in")
        yield from dense(f"{torch_block}.ff.net.2", f"{block}/feed_forward/out")
