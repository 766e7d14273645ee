"""Fine-tuning of stage 2: LoRAs of the UNet and of IRControlNet, or all of both, on a few photos.

The loss, the data and the validation are those of stage 2 from images (`regeneration.py`). There the UNet is frozen;
here both networks start from trained weights and both change.
"""

import dataclasses
import json

import jax

from diffbir_jax.console.errors import UserError
from diffbir_jax.models.apply import Params
from diffbir_jax.models.lora import DEFAULT_ALPHA, merge
from diffbir_jax.models.presets import Preset
from diffbir_jax.training.config import Config
from diffbir_jax.training.lora_start import new_lora, with_alpha
from diffbir_jax.training.objective import Objective
from diffbir_jax.training.regeneration import Parts, files_of, options_of, prepare, preset_of
from diffbir_jax.weights.loading import stored

TUNED = ("unet", "control")


def make(config: Config) -> Objective:
    """Build the objective; batches and settings are as for stage 2, see `regeneration.make`, but for `model.control`.

    Args:
        config: `lora.rank`, the rank of the LoRAs, whose alpha is PEFT's default; 0 trains all weights instead.

    Raises:
        FileNotFoundError: weights are missing.
        ValueError: as in `regeneration.make`, or the preset has no IRControlNet.
    """
    preset, rank = preset_of(config), int(config.lora.rank)
    if preset.one_step is not None or preset.stage1_only:
        raise UserError(f"version {preset.name} has no IRControlNet; fine-tune v1, v2, v2.1 or tiny")
    names = list(files_of(config, preset, list(preset.modules)))
    # A control with an encoder of its own sees the stage-1 image through it, which stays frozen.
    condition = "conv" if "condition" in names else "vae"
    scale = DEFAULT_ALPHA / rank if rank else 1.0
    parts = prepare(config, preset, options_of(config, condition, lora_scale=scale), names)
    return _full(config, parts) if not rank else _factors(config, parts, rank)


def _full(config: Config, parts: Parts) -> Objective:
    """All weights of both networks; the export is a whole folder of weights."""
    params = {name: parts.weights[name] for name in TUNED}
    frozen = {name: x for name, x in parts.frozen.items() if name not in TUNED}
    rest = {name: x for name, x in parts.weights.items() if name not in TUNED}
    parts = dataclasses.replace(parts, frozen=frozen)
    validate = parts.validation(config, lambda params, frozen: params)
    said = {"condition": parts.options.condition}
    return Objective(
        params, frozen, parts.stage2.loss, parts.train, validate, lambda ema: {**rest, **ema}, said
    )


def _factors(config: Config, parts: Parts, rank: int) -> Objective:
    """A LoRA of each network; the export is one file of factors."""
    loras = {name: new_lora(parts.weights[name], rank, config.seed) for name in TUNED}
    dtype = parts.options.dtype

    @jax.jit
    def merged(params: Params, frozen: Params) -> Params:
        both = {name: merge(frozen[name], params["lora"][name], parts.options.lora_scale) for name in TUNED}
        return stored(both, dtype)

    return Objective(
        {"lora": loras},
        parts.frozen,
        parts.stage2.loss,
        parts.train,
        parts.validation(config, merged),
        exported,
        header(parts.preset),
    )


def exported(ema: Params) -> dict[str, Params]:
    """Return the file of factors."""
    return {"lora": {name: with_alpha(ema["lora"][name], DEFAULT_ALPHA) for name in TUNED}}


def header(preset: Preset) -> dict[str, str]:
    """Return the header of a file of factors, as diffbir convert writes it: it can be read back and exported."""
    about = {"adapters": "default", "sizes": dataclasses.asdict(preset.unet)}
    return {
        "family": "lora",
        "config": json.dumps({name: about | {"prefix": f"{name}."} for name in TUNED}),
    }
