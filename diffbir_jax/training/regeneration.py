"""Stage 2 as the papers train it: IRControlNet learns to regenerate detail, from pairs of images (`stage2.py`)."""

from dataclasses import replace

import jax
import jax.numpy as jnp

from diffbir_jax.checkpoint import load_weights
from diffbir_jax.loading import abstract_params, stored, weight_files, with_stage1
from diffbir_jax.models.apply import Params, init
from diffbir_jax.models.controlnet import init_from_unet
from diffbir_jax.models.presets import Preset, get_preset
from diffbir_jax.training.objective import Objective
from diffbir_jax.training.prior import validation
from diffbir_jax.training.sampled import both, restoration
from diffbir_jax.training.sources import Tokenized, training_batches
from diffbir_jax.training.stage2 import Stage2Options, abstract_frozen, make_stage2
from diffbir_jax.training.state import Config

STARTS = ("unet", "scratch")


def make(config: Config) -> Objective:
    """Build the objective; batches hold `hq` and `lq` (B, H, W, 3) uint8 and, with captions, `tokens` (B, 77) int32.

    Args:
        config: `model` (`stage1`: whether the restoration module cleans the condition; `control.condition`, see
            `Stage2Options`; `control.init`: "unet" starts from a copy of the UNet's encoder, "scratch" from random
            weights), `diffusion` (`focus`, `min_snr`, `noise_aug`), `precision`, `remat` (Stage2Options), `weights`
            (`folder` of the preset's files, None for those that the package ships; a path for each of `rm`, `vae`,
            `unet`, `text` that lies elsewhere), `sampling` (`images` that validation restores, 0 for none, and how, see
            `restoration`) and `data`, see `training_batches`.

    Raises:
        FileNotFoundError: weights are missing.
        ValueError: a setting is not allowed, or the preset cannot use it.
    """
    preset, options = _preset(config), _options(config)
    stage2 = make_stage2(preset, options)
    weights = _load(config, preset, list(abstract_frozen(preset, options)))
    train, held_out = _batches(config, preset)
    examples = held_out(0)
    params = _start(config, preset, options, weights["unet"])

    validate = validation(stage2.schedule, stage2.denoise, examples, stage2.encode)
    if config.sampling.images:
        validate = both(validate, restoration(preset, options.dtype, config.sampling, examples))
    said = {"condition": options.condition}
    return Objective(
        params, stored(weights, options.dtype), stage2.loss, train, validate, lambda ema: ema, said
    )


def _preset(config: Config) -> Preset:
    """The preset with the restoration module that trains stage 2, or with none."""
    preset = get_preset(config.preset)
    return with_stage1(preset, config.weights.rm) if config.model.stage1 else replace(preset, rm=None)


def _options(config: Config) -> Stage2Options:
    return Stage2Options(
        condition=config.model.control.condition,
        precision=config.precision,
        remat=config.remat,
        **config.diffusion,
    )


def _load(config: Config, preset: Preset, names: list[str]) -> dict[str, Params]:
    """Float32 parameters of the frozen networks, on the host."""
    given = {name: config.weights[name] for name in names if config.weights[name]}
    files = weight_files(preset, config.weights.folder, [name for name in names if name not in given])
    likes = abstract_params(preset, names)
    return {name: load_weights(path, likes[name]) for name, path in (files | given).items()}


def _batches(config: Config, preset: Preset) -> tuple[Tokenized, Tokenized]:
    """Training and held-out batches, captions as tokens."""
    if config.data.captions and preset.text is None:
        raise ValueError(f"preset {preset.name} reads no text: set config.data.captions to None")
    train, held_out = training_batches(config)
    return Tokenized(train), Tokenized(held_out)


def _start(config: Config, preset: Preset, options: Stage2Options, unet: Params) -> Params:
    """What is trained, float32, as it is before the first step."""
    start, keys = config.model.control.init, jax.random.split(jax.random.key(config.seed))
    if start not in STARTS:
        raise ValueError(f"config.model.control.init is {start!r}, allowed are {', '.join(STARTS)}")
    params = {"control": init_from_unet(unet, preset.vae.embed_dim)}
    if start == "scratch":
        params["control"] = init(preset.make_control(), keys[0], *_control_inputs(preset))
    if options.condition == "conv":
        image = jnp.zeros((1, preset.multiple, preset.multiple, 3))
        params["condition"] = init(preset.make_condition(), keys[1], image)
    return params


def _control_inputs(preset: Preset) -> tuple[jax.Array | None, ...]:
    """Inputs of an IRControlNet, of the smallest size."""
    side, text = preset.unet.downsample, preset.unet.context_dim
    z = jnp.zeros((1, side, side, preset.vae.embed_dim))
    return z, z, jnp.zeros(1, jnp.int32), None if text is None else jnp.zeros((1, 77, text))
