"""Stable Diffusion in the layout of diffusers: a folder with `unet/`, `vae/` and `text_encoder/`.

The key tables are those of the original layout with other names on PyTorch's side. The names are made from the Flax
paths, which distinguish levels and stages as diffusers does.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from diffbir_jax.console.plain import shown
from diffbir_jax.conversion import architectures, stable_diffusion
from diffbir_jax.conversion.engine import DENSE, POINTWISE, Rule, is_floating
from diffbir_jax.conversion.files import CheckpointError, State, Stored, read_tensors
from diffbir_jax.conversion.kinds import check_file
from diffbir_jax.conversion.rules import Rules
from diffbir_jax.conversion.shapes import Shapes
from diffbir_jax.models.clip import CLIPTextConfig
from diffbir_jax.models.unet import UNetConfig
from diffbir_jax.models.vae import VAEConfig

FOLDERS = ("unet", "vae", "text_encoder")
# Part of the file names of other copies of the same weights. These are read only if there is no other file.
VARIANT = re.compile(r"\.(fp16|bf16|non_ema)[.-]")
# The end of the name of an index of shards; a variant's name may be in it.
INDEX = re.compile(r"\.index(\.\w+)?\.json$", re.IGNORECASE)
# Names of the VAE's attention before diffusers 0.18; Stable Diffusion 2.1 was published with them.
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

# (pattern in the Flax path, name in diffusers), applied in turn; "/" becomes "." at the end.
Renames = tuple[tuple[str, str], ...]
LEAVES: Renames = ((r"(kernel|scale)$", "weight"), (r"shortcut", "conv_shortcut"))
UNET: Renames = (
    (r"^encoder/", ""),
    (r"^time_(\d)", r"time_embedding/linear_\1"),
    (r"down_(\d)_downsample", r"down_blocks/\1/downsamplers/0/conv"),
    (r"up_(\d)_upsample", r"up_blocks/\1/upsamplers/0/conv"),
    (r"mid_stage_\d/transformer", "mid_block/attentions/0"),
    (r"mid_stage_(\d)/block", r"mid_block/resnets/\1"),
    (r"(down|up)_(\d)_stage_(\d)/transformer", r"\1_blocks/\2/attentions/\3"),
    (r"(down|up)_(\d)_stage_(\d)/block", r"\1_blocks/\2/resnets/\3"),
    (r"/time/", "/time_emb_proj/"),
    (r"/block_(\d)/", r"/transformer_blocks/\1/"),
    (r"self_attention", "attn1"),
    (r"cross_attention", "attn2"),
    (r"(attn\d)/([qkv])/", r"\1/to_\2/"),
    (r"(attn\d)/out/", r"\1/to_out/0/"),
    (r"feed_forward/in", "ff/net/0/proj"),
    (r"feed_forward/out", "ff/net/2"),
    (r"^norm_out", "conv_norm_out"),
    *LEAVES,
)
VAE: Renames = (
    (r"(down|up)_(\d)_block_(\d)", r"\1_blocks/\2/resnets/\3"),
    (r"down_(\d)_downsample", r"down_blocks/\1/downsamplers/0/conv"),
    (r"up_(\d)_upsample", r"up_blocks/\1/upsamplers/0/conv"),
    (r"mid/block_1", "mid_block/resnets/0"),
    (r"mid/block_2", "mid_block/resnets/1"),
    (r"mid/attention/norm", "mid_block/attentions/0/group_norm"),
    (r"mid/attention/proj_out", "mid_block/attentions/0/to_out/0"),
    (r"mid/attention/([qkv])", r"mid_block/attentions/0/to_\1"),
    (r"norm_out", "conv_norm_out"),
    *LEAVES,
)
# (name in the original layout, name in transformers' CLIPTextModel).
TEXT: Renames = (
    (r"^model\.token_embedding", "text_model.embeddings.token_embedding"),
    (r"^model\.positional_embedding", "text_model.embeddings.position_embedding.weight"),
    (r"^model\.ln_final", "text_model.final_layer_norm"),
    (r"^model\.transformer\.resblocks", "text_model.encoder.layers"),
    (r"\.ln_", ".layer_norm"),
    (r"\.attn\.", ".self_attn."),
    (r"mlp\.c_fc", "mlp.fc1"),
    (r"mlp\.c_proj", "mlp.fc2"),
)


def unet_rules(config: UNetConfig) -> Rules:
    """`UNet` as diffusers' UNet2DConditionModel."""
    for rule in stable_diffusion.unet_rules(config):
        yield replace(rule, key=_name(rule, UNET, len(config.channel_mult)))


def control_rules(config: UNetConfig) -> Rules:
    """`IRControlNet` with diffusers' names of the same layers: those of the UNet, and of ControlNetModel at the end."""
    rules = list(stable_diffusion.controlnet_rules(config))
    last = max(int(found[1]) for rule in rules if (found := re.match(r"zero_conv_(\d+)/", rule.path)))
    ends = ((rf"^zero_conv_{last}/", "controlnet_mid_block/"), (r"^zero_conv_", "controlnet_down_blocks/"))
    for rule in rules:
        yield replace(rule, key=_name(rule, (*ends, *UNET), len(config.channel_mult)))


def vae_rules(config: VAEConfig) -> Rules:
    """`AutoencoderKL` as diffusers' class of the same name, with attention of dense layers."""
    for rule in stable_diffusion.vae_rules(config):
        # diffusers stores these 1x1 convolutions as dense layers.
        layout = DENSE if rule.layout is POINTWISE else rule.layout
        yield replace(rule, key=_name(rule, VAE, len(config.ch_mult)), layout=layout)


def clip_rules(config: CLIPTextConfig) -> Rules:
    """`CLIPText` as transformers' CLIPTextModel, with queries, keys and values joined as `read_folder` does."""
    for rule in stable_diffusion.clip_rules(config):
        yield replace(rule, key=_renamed(rule.key, TEXT))


def unet_sizes(shapes: Shapes) -> UNetConfig:
    """Sizes of the UNet."""
    default, context = UNetConfig(), "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    return architectures.unet_sizes(
        shapes.size("conv_in.weight", 0, default.model_channels, multiple=32),
        shapes.size(context, 1, default.context_dim or 0),
    )


def clip_sizes(shapes: Shapes) -> CLIPTextConfig:
    """Sizes of the text tower, which diffusers stores without the block that never runs."""
    embeddings = "text_model.embeddings"
    layers = shapes.count(r"text_model\.encoder\.layers\.(\d+)\.", CLIPTextConfig.layers - 1)
    words, places = f"{embeddings}.token_embedding.weight", f"{embeddings}.position_embedding.weight"
    return architectures.clip_sizes(shapes, words, places, 1 + layers)


def read_folder(path: Path) -> State:
    """One state dict from a diffusers folder; keys begin with "unet.", "vae." and "text_encoder.".

    Older names of the same layers become the current ones. The text encoder's queries, keys and values are joined as
    `in_proj_weight` and `in_proj_bias`.

    Raises:
        CheckpointError: a folder or a shard is missing, or a file is damaged.
    """
    missing = [name for name in FOLDERS if not (path / name).is_dir()]
    if missing:
        raise CheckpointError(
            f"{path} is not a diffusers folder: it has no {', '.join(f'{name}/' for name in missing)}"
        )
    parts = {name: _read_parts(path / name) for name in FOLDERS}
    parts["vae"] = {_modern(key): x for key, x in parts["vae"].items()}
    parts["text_encoder"] = _joined({_full(key): x for key, x in parts["text_encoder"].items()})
    return {f"{name}.{key}": x for name, part in parts.items() for key, x in part.items()}


def is_index(path: Path) -> bool:
    """Whether a file is the index of a network whose weights lie in several files."""
    return bool(INDEX.search(path.name)) and path.is_file()


def read_index(index: Path) -> State:
    """The state dict in all files that an index names.

    Raises:
        CheckpointError: it is no index, or a file is missing or damaged.
    """
    return {key: x for path in index_files(index) for key, x in read_tensors(path).items()}


def index_files(index: Path) -> list[Path]:
    """The files that an index names, which lie beside it; errors as in `read_index`."""
    names = _shard_names(index)
    if any(Path(name).name != name for name in names):
        raise CheckpointError(f"{index} names files in other folders; their place is beside it")
    return _shards([index])


def weight_files(folder: Path) -> list[Path]:
    """The files that together hold a network's weights.

    Safetensors come before .bin, full precision before variants, and files in an index before other files.

    Raises:
        CheckpointError: there is no such file, or a shard is missing.
    """
    for suffix in ("safetensors", "bin"):
        # As diffusers itself chooses.
        if found := sorted(folder.glob(f"*.{suffix}")):
            indices = sorted(folder.glob(f"*.{suffix}.*json"))
            return _shards(_full_precision(indices)) or _full_precision(found) or _shards(indices) or found
    raise CheckpointError(f"{folder} holds no .safetensors and no .bin file")


def _name(rule: Rule, renames: Renames, levels: int) -> str:
    # diffusers counts decoder levels from the lowest resolution.
    path = re.sub(r"(up)_(\d)", lambda match: f"up_{levels - 1 - int(match[2])}", rule.path)
    return _renamed(path, renames).replace("/", ".")


def _renamed(name: str, renames: Renames) -> str:
    for pattern, new in renames:
        name = re.sub(pattern, new, name)
    return name


def _read_parts(folder: Path) -> State:
    state: State = {}
    for path in weight_files(folder):
        state |= read_tensors(path)
    return state


def _full_precision(paths: list[Path]) -> list[Path]:
    return [path for path in paths if not VARIANT.search(path.name)]


def _shards(indices: list[Path]) -> list[Path]:
    """The files that the first index names, if there is one."""
    for index in indices[:1]:
        names = _shard_names(index)
        # Not pathlib's, which raises for names that no file can have.
        missing = [shown(name) for name in names if not os.path.isfile(index.parent / name)]
        if missing:
            raise CheckpointError(
                f"{index.parent}: {index.name} names {', '.join(missing)}, which is missing"
            )
        return [index.parent / name for name in names]
    return []


def _shard_names(index: Path) -> list[str]:
    check_file(index)
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return sorted({str(name) for name in weight_map.values()})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise CheckpointError(
            f"{index} is no index of shards, which maps keys to files in weight_map ({reason})"
        ) from error


def _modern(key: str) -> str:
    old = re.search(r"\.attentions\.0\.(query|key|value|proj_attn)\.", key)
    return key.replace(f".{old[1]}.", f".{OLD_ATTENTION[old[1]]}.") if old else key


def _full(key: str) -> str:
    # transformers 5 omits this prefix.
    return key if key.startswith("text_") else f"text_model.{key}"


def _joined(state: Mapping[str, Stored]) -> State:
    """Queries, keys and values of each block, joined into one array as in the original layout."""
    joined = dict(state)
    for key in state:
        if found := re.fullmatch(r"(.*\.self_attn)\.q_proj\.(weight|bias)", key):
            names = [f"{found[1]}.{name}_proj.{found[2]}" for name in "qkv"]
            # Otherwise the parts stay as they are, and the engine names the missing ones.
            if all(name in state for name in names):
                parts = [joined.pop(name) for name in names]
                joined[f"{found[1]}.in_proj_{found[2]}"] = _concatenated(parts)
    return joined


def _concatenated(parts: list[Stored]) -> Stored:
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
    # An array that is no weight must not hide among the others.
    dtype = next((part.dtype for part in parts if not is_floating(part.dtype)), parts[0].dtype)
    return Stored(shape, dtype, lambda: np.concatenate([np.asarray(part) for part in parts]))
