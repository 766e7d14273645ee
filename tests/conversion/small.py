"""Checkpoints of every family at small size, in the layouts in which they are published."""

import functools

import numpy as np
import pytest

from diffbir_jax.conversion import diffusers
from diffbir_jax.conversion.architectures import (
    BSRNET,
    CONTROL,
    OLD_ESRGAN,
    REALESRGAN,
    SCUNET,
    SRVGG,
    SWINIR,
    TEXT,
    UNET,
    VAE,
    Architecture,
)
from diffbir_jax.conversion.engine import Params, export, torch_shapes
from diffbir_jax.conversion.to_torch import swinir_buffers
from diffbir_jax.models.clip import CLIPTextConfig
from diffbir_jax.models.srvgg import SRVGGConfig
from tests.golden.weights import fill
from tests.models import reference

State = dict[str, np.ndarray]
# The goldens' sizes, but for a vocabulary of megabytes; state dicts do not tell the number of heads of the last three.
CLIP = CLIPTextConfig(width=64, heads=16, layers=3, vocab=50)
SMALL_SRVGG = SRVGGConfig(num_feat=16, num_conv=2)
UNET_CONFIG = reference.UNET.__class__(model_channels=32, num_head_channels=32, context_dim=64)


def weights(kind: Architecture, config: object, prefix: str = "") -> State:
    """A state dict of one network: every value depends on its key."""
    return {prefix + key: x for key, x in _weights(kind, config).items()}


@functools.cache
def _weights(kind: Architecture, config: object) -> State:
    shapes = torch_shapes(list(kind.rules(config)), kind.abstract(config))
    return {key: fill(kind.family, key, shape) for key, shape in shapes.items()}


def swinir(config: reference.SwinIRConfig = reference.SWINIR, prefix: str = "") -> State:
    """SwinIR with its buffers."""
    buffers = {prefix + key: x for key, x in swinir_buffers(config).items()}
    return weights(SWINIR, config, prefix=prefix) | buffers


def stable_diffusion() -> State:
    """UNet, VAE and text tower in one file, with what training leaves there."""
    block = {k: x for k, x in weights(TEXT, CLIP).items() if ".resblocks.0." in k}
    last = {f"cond_stage_model.{k.replace('.0.', '.2.', 1)}": x for k, x in block.items()}
    rest = {"betas": np.zeros(1000, np.float32), "model_ema.decay": np.zeros((), np.float32)}
    rest |= {"cond_stage_model.model.text_projection": np.zeros((64, 64), np.float32)}
    return {
        **weights(UNET, UNET_CONFIG, prefix="model.diffusion_model."),
        **weights(VAE, reference.VAE, prefix="first_stage_model."),
        **weights(TEXT, CLIP, prefix="cond_stage_model."),
        **last,
        **rest,
    }


def all_in_one() -> State:
    """DiffBIR v1 in one file, with its copy of the VAE's encoder."""
    encoder = {
        k: x for k, x in weights(VAE, reference.VAE).items() if k.startswith(("encoder", "quant_conv"))
    }
    return {
        **stable_diffusion(),
        **weights(CONTROL, UNET_CONFIG, prefix="control_model."),
        **swinir(prefix="preprocess_model."),
        **{f"cond_encoder.{k}": x for k, x in encoder.items()},
    }


def diffusers_parts() -> dict[str, State]:
    """The same Stable Diffusion as `stable_diffusion`, by folder of the diffusers layout."""
    kinds = {"unet": (UNET, UNET_CONFIG), "vae": (VAE, reference.VAE), "text_encoder": (TEXT, CLIP)}
    tables = {"unet": diffusers.unet_rules, "vae": diffusers.vae_rules, "text_encoder": diffusers.clip_rules}
    parts = {}
    for name, (kind, config) in kinds.items():
        params = reference.convert(weights(kind, config), list(kind.rules(config)), kind.abstract(config))
        parts[name] = export(params, list(tables[name](config)))
    parts["text_encoder"] = _split(parts["text_encoder"])
    parts["text_encoder"]["text_model.embeddings.position_ids"] = np.arange(77)[None]
    return parts


def publish(patch: pytest.MonkeyPatch) -> None:
    """Let the sizes here be the published ones, which files of published names must have."""
    configs = {"unet": UNET_CONFIG, "vae": reference.VAE, "text": CLIP, "bsrnet": reference.BSRNET}
    configs |= {"control": UNET_CONFIG, "swinir": reference.SWINIR, "scunet": reference.SCUNET}
    configs |= {"srvgg": SMALL_SRVGG}

    def published(kind: Architecture) -> tuple[object, Params]:
        return configs[kind.family], kind.abstract(configs[kind.family])

    patch.setattr(Architecture, "published", published)


def _split(state: State) -> State:
    """Queries, keys and values apart, as transformers has them."""
    split: State = {}
    for key, x in state.items():
        if ".in_proj_" in key:
            names = [key.replace("in_proj_", f"{name}_proj.") for name in "qkv"]
            split |= dict(zip(names, np.split(x, 3)))
        else:
            split[key] = x
    return split


# Family -> (a state dict, the names of the files that it becomes).
FAMILIES = {
    "Stable Diffusion 2.1": (stable_diffusion, ["unet", "vae", "text"]),
    "DiffBIR v1, all in one": (all_in_one, ["unet", "vae", "text", "control", "swinir"]),
    "IRControlNet": (lambda: weights(CONTROL, UNET_CONFIG), ["control"]),
    "SwinIR": (swinir, ["swinir"]),
    "BSRNet": (lambda: weights(BSRNET, reference.BSRNET), ["bsrnet"]),
    "Real-ESRGAN": (lambda: weights(REALESRGAN, reference.BSRNET), ["realesrgan"]),
    "ESRGAN, old layout": (lambda: weights(OLD_ESRGAN, reference.BSRNET), ["esrgan"]),
    "SRVGG": (lambda: weights(SRVGG, SMALL_SRVGG), ["srvgg"]),
    "SCUNet": (lambda: weights(SCUNET, reference.SCUNET), ["scunet"]),
}
