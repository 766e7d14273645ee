"""What training of a published one-step restorer exports: its networks with the LoRAs merged, and the factors."""

import dataclasses
import json
from collections.abc import Callable

import jax
import numpy as np

from diffbir_jax.models.apply import Params
from diffbir_jax.models.header import describe
from diffbir_jax.models.lora import merge
from diffbir_jax.models.presets import Preset
from diffbir_jax.training.generator import CONV_IN, LORA, with_first
from diffbir_jax.training.lora_start import with_alpha


def exported(
    preset: Preset, base: dict[str, Params], lora_scale: float, alpha: float
) -> Callable[[Params], dict[str, Params]]:
    """Return EMA params -> the files of a run.

    The merged networks have the names by which the version looks for them, such as `unet_hypir`. `lora` holds the
    factors; it is left out if they are not all that is trained.

    Args:
        preset: the version.
        base: float32 parameters of its networks.
        lora_scale: alpha / rank.
        alpha: as PEFT's.
    """

    def export(ema: Params) -> dict[str, Params]:
        ema = jax.device_get(ema)
        files = {getattr(preset.files, name): _merged(name, base, ema, lora_scale) for name in ema[LORA]}
        if CONV_IN not in ema:
            files[LORA] = {name: with_alpha(lora, alpha) for name, lora in ema[LORA].items()}
        return files

    return export


def headers(preset: Preset, params: Params) -> dict[str, dict[str, str]]:
    """Return the headers of these files by name, as diffbir convert writes them: all can be read back and exported.

    Args:
        preset: the version.
        params: what is trained.
    """
    sizes = {name: getattr(preset, name) for name in params[LORA]}
    found = {getattr(preset.files, name): describe(name, config) for name, config in sizes.items()}
    about = {
        name: {"adapters": "default", "sizes": dataclasses.asdict(config), "prefix": ""}
        for name, config in sizes.items()
    }
    return found | {LORA: {"family": "lora", "config": json.dumps(about)}}


def _merged(name: str, base: dict[str, Params], ema: Params, lora_scale: float) -> Params:
    network = with_first(base[name], ema) if name == "unet" else base[name]
    return merge(jax.tree.map(np.asarray, network), ema[LORA][name], lora_scale)
