"""Stage 2 as the papers train it: IRControlNet learns detail from pairs of images (`control_images.py`)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp

from diffbir_jax.console.errors import UserError
from diffbir_jax.data.batches import Batches, HostBatch
from diffbir_jax.models.apply import Params, init
from diffbir_jax.models.controlnet import init_from_unet
from diffbir_jax.models.presets import Preset, get_preset
from diffbir_jax.training.config import Config, optional
from diffbir_jax.training.control_images import Condition, Stage2, Stage2Options, abstract_frozen, make_stage2
from diffbir_jax.training.objective import Objective
from diffbir_jax.training.pool import Encoder, LatentBatches, pool_batches
from diffbir_jax.training.prior import validation
from diffbir_jax.training.sampled import Validate, both, restoration, sampling_options
from diffbir_jax.training.sources import Tokenized, training_batches
from diffbir_jax.weights.loading import abstract_params, announce, stored, weight_files, with_stage1
from diffbir_jax.weights.safetensors import checksum, load_weights

STARTS = ("unet", "scratch")
# Networks that prepare a batch. Where crops are encoded once, no step needs them.
ENCODERS = ("rm", "vae", "text")


def make(config: Config) -> Objective:
    """Build the objective; batches hold `hq` and `lq` (B, H, W, 3) uint8 and, with captions, `tokens` (B, 77) int32.

    With `data.cache`, batches hold the output of `Stage2.encode`, and the UNet is the step's only frozen network.

    Args:
        config: these sections:
            `model`: `stage1`, whether the restoration module cleans the condition; `control.condition`, see
            `Stage2Options`; `control.init`, "unet" (a copy of the UNet's encoder) or "scratch" (random weights).
            `diffusion` (`focus`, `min_snr`, `noise_aug`), `precision` and `remat`: see `Stage2Options`.
            `weights`: `folder` of the preset's files, None for the files that the package ships; `rm`, `vae`, `unet`,
            `text`, each a path if that file is in another place.
            `sampling`: `images`, the number that validation restores (0 for none), and its options, see `restoration`.
            `data`: see `training_batches`; for `cache` (None or missing: encode in every step) and `pool` see
            `pool_batches`.

    Raises:
        FileNotFoundError: weights are missing.
        ValueError: a setting is not allowed, the preset cannot use it, or the cache was made from other data or
            networks.
    """
    start = config.model.control.init
    if start not in STARTS:
        raise UserError(f"config.model.control.init is {start!r}, allowed are {', '.join(STARTS)}")
    preset, options = preset_of(config), options_of(config, config.model.control.condition)
    parts = prepare(config, preset, options, list(abstract_frozen(preset, options)))
    params = start_of(config, preset, options, parts.weights["unet"])
    return Objective(
        params,
        parts.frozen,
        parts.stage2.loss,
        parts.train,
        parts.validation(config, lambda params, frozen: params),
        lambda ema: ema,
        {"condition": options.condition},
    )


@dataclass(frozen=True)
class Parts:
    """What a stage on images has beside the parameters that it trains.

    Attributes:
        preset, options, stage2: the networks.
        weights: float32 parameters on the host, by network.
        frozen: those that a step needs, as they are stored.
        train, held_out: batches of images, or of their encodings.
        examples: held-out images.
    """

    preset: Preset
    options: Stage2Options
    stage2: Stage2
    weights: dict[str, Params]
    frozen: Params
    train: Batches
    held_out: Batches
    examples: HostBatch

    def validation(self, config: Config, whole: Callable[[Params, Params], Params]) -> Validate:
        """Return the validation by losses and, if the config asks for it, by restoring.

        Args:
            config: `sampling`.
            whole: (trained, frozen) -> parameters of the networks that are trained, by name.
        """
        stage2 = self.stage2
        losses = validation(stage2.schedule, stage2.denoise, self.held_out(0), stage2.encode)
        if not config.sampling.images:
            return losses
        # With a pool the step has no VAE, but restoring images needs it.
        rest = {name: self.weights[name] for name in self.weights.keys() - self.frozen.keys()}
        restored = restoration(self.preset, self.options.dtype, config.sampling, self.examples, rest)
        return both(losses, lambda params, frozen: restored(whole(params, frozen), frozen))


def prepare(config: Config, preset: Preset, options: Stage2Options, names: list[str]) -> Parts:
    """Load the networks `names` and the data; settings and errors as in `make`."""
    if optional(config.data, "data.captions") and preset.text is None:
        raise UserError(f"preset {preset.name} reads no text: set config.data.captions to None")
    sampling_options(preset, config.sampling)
    stage2 = make_stage2(preset, options)
    # On the host: of a pool's encoders, only what a step needs goes to the devices.
    weights = frozen = _load(config, preset, names)
    train, held_out = images = _batches(config)
    examples = held_out(0)
    if optional(config.data, "data.cache"):
        train, held_out = _encoded(config, preset, options, stage2, weights, images)
        frozen = {name: params for name, params in weights.items() if name not in ENCODERS}
    frozen = stored(frozen, options.dtype)
    return Parts(preset, options, stage2, weights, frozen, train, held_out, examples)


def preset_of(config: Config) -> Preset:
    """Return the preset with the restoration module for training, or without one (`model.stage1` False)."""
    preset = get_preset(config.preset)
    if not config.model.stage1:
        return replace(preset, rm=None)
    return with_stage1(preset, config.weights.rm, config.weights.folder)


def options_of(config: Config, condition: Condition, **more: object) -> Stage2Options:
    """Return the options of a configuration; `condition` and `more` are fields of them."""
    chosen = {"precision": config.precision, "remat": config.remat} | more
    return Stage2Options(condition=condition, **chosen, **config.diffusion)


def _load(config: Config, preset: Preset, names: list[str]) -> dict[str, Params]:
    """Load the frozen networks' float32 parameters to the host."""
    likes, files = abstract_params(preset, names), files_of(config, preset, names)
    announce(preset, config.weights.folder, files)
    return {name: load_weights(path, likes[name]) for name, path in files.items()}


def files_of(config: Config, preset: Preset, names: list[str]) -> dict[str, Path]:
    """Return the weights file of each network; a path in the config wins over the folder."""
    # The preset knows the file of its restoration module, see `with_stage1`.
    given = {name: Path(config.weights[name]) for name in names if name != "rm" and config.weights.get(name)}
    others = [name for name in names if name not in given]
    return weight_files(preset, config.weights.folder, others) | given


def _batches(config: Config) -> tuple[Tokenized, Tokenized]:
    """Training and held-out batches, captions as tokens."""
    train, held_out = training_batches(config, whole=bool(optional(config.data, "data.cache")))
    return Tokenized(train), Tokenized(held_out)


def _encoded(
    config: Config,
    preset: Preset,
    options: Stage2Options,
    stage2: Stage2,
    weights: dict[str, Params],
    images: tuple[Tokenized, Tokenized],
) -> tuple[LatentBatches, LatentBatches]:
    """Return training and held-out batches of `images` that are encoded once, see `pool_batches`."""
    used = [name for name in ENCODERS if name in weights]
    made_from = {name: checksum(path) for name, path in sorted(files_of(config, preset, used).items())}
    # These change the encodings, so a pool of other values must be refused.
    made_from |= {"condition": options.condition, "precision": options.precision}
    sources = zip(("training", "held_out"), images, strict=True)
    made_from |= {name: _origin(batches) for name, batches in sources}
    # Without captions all crops have the empty prompt; one context of 158 KB serves the whole pool.
    shared = () if optional(config.data, "data.captions") else ("context",)

    def encoder() -> Encoder:
        frozen = stored({name: weights[name] for name in used}, options.dtype)
        return Encoder(stage2.encode, frozen, shared)

    return pool_batches(config, lambda: images, encoder, made_from)


def _origin(batches: Tokenized) -> str:
    """Return the identity of the data: source, recipe and order. The oldest caches have no order."""
    identity = batches.identity
    return "/".join(str(identity[key])[:16] for key in ("source", "recipe", "order") if key in identity)


def start_of(config: Config, preset: Preset, options: Stage2Options, unet: Params) -> Params:
    """Return the float32 trainable parameters before the first step."""
    start, keys = config.model.control.init, jax.random.split(jax.random.key(config.seed))
    params = {"control": init_from_unet(unet, preset.vae.embed_dim)}
    if start == "scratch":
        params["control"] = init(preset.make_control(), keys[0], *_control_inputs(preset))
    if options.condition == "conv":
        image = jnp.zeros((1, preset.multiple, preset.multiple, 3))
        params["condition"] = init(preset.make_condition(), keys[1], image)
    return params


def _control_inputs(preset: Preset) -> tuple[jax.Array | None, ...]:
    """Return inputs of the smallest size for an IRControlNet; they only give shapes."""
    side, text = preset.unet.downsample, preset.unet.context_dim
    z = jnp.zeros((1, side, side, preset.vae.embed_dim))
    return z, z, jnp.zeros(1, jnp.int32), None if text is None else jnp.zeros((1, 77, text))
