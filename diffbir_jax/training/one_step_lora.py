"""The recipes of published one-step restorers: LoRAs of Stable Diffusion by data losses, and a GAN or distillation.

HYPIR (Lin et al., 2025) trains with a discriminator on features, OSEDiff (Wu et al., 2024) with score distillation. The
weights in `config.loss` say which parts there are.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from diffbir_jax.console.errors import UserError
from diffbir_jax.models.apply import Params, apply
from diffbir_jax.models.feature_discriminator import FeatureDiscriminator
from diffbir_jax.models.presets import Preset, get_preset
from diffbir_jax.text.tokenizer import tokenize
from diffbir_jax.training.config import Config, optional
from diffbir_jax.training.critic import Critic, Features, features_of
from diffbir_jax.training.distillation import Distillation
from diffbir_jax.training.generator import CONV_IN, LORA, Generator
from diffbir_jax.training.lora_export import exported, headers
from diffbir_jax.training.lora_start import ENCODER, LAYERS, WITH_FIRST, new_lora
from diffbir_jax.training.lpips import load_lpips, lpips_loss
from diffbir_jax.training.objective import Objective
from diffbir_jax.training.report import tile_grid
from diffbir_jax.training.rm import mean_psnr
from diffbir_jax.training.sources import Tokenized, to_signed, to_unit, training_batches
from diffbir_jax.training.state import Batch, LossFn
from diffbir_jax.training.turns import Turn
from diffbir_jax.training.vae import weighted_sum
from diffbir_jax.weights.loading import PRECISIONS, abstract_params, stored
from diffbir_jax.weights.safetensors import load_weights

TERMS = ("mse", "lpips", "gan", "vsd", "regulariser")
# Terms that need a section of their own.
SECTIONS = {"gan": "critic", "vsd": "distillation"}
Texts = Callable[[Params, Batch], tuple[jax.Array | None, jax.Array | None]]


def make(config: Config) -> Objective:
    """Build the objective; batches hold `hq` and `lq` (B, H, W, 3) uint8 and, with captions, `tokens` (B, 77) int32.

    Args:
        config: `preset` is hypir, osediff or osediff-face. Then these sections:
            `lora`: `rank` and `alpha`; `conv_in`, whether the UNet's first convolution is trained too, as a whole and
                by its LoRA; `encoder`, whether the autoencoder's encoder has a LoRA.
            `loss`: weights of `mse`, `lpips` (VGG16), `gan`, `vsd` and `regulariser`; a missing weight is 0.
            `critic`, for `gan`: `features`, see `critic.FEATURES`, and `width` of the head.
            `distillation`, for `vsd`: `cfg_scale` and `negative_prompt`.
            `weights`: files of the base, `unet`, `vae` and, if the preset reads text, `text`; of `lpips`; `critic`, the
                weights of the discriminator's features.
            `precision` and `remat`: as for stage 2.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a setting is not allowed, or a file does not fit.
    """
    preset = get_preset(config.preset)
    _check(config)
    features = features_of(config.critic.features) if config.loss.get("gan") else None
    dtype = PRECISIONS[optional(config, "precision")]
    generator = Generator(
        preset, config.lora.alpha / config.lora.rank, dtype, bool(optional(config, "remat"))
    )
    base = {name: _loaded(config, preset, name) for name in preset.modules}
    frozen = stored(base, dtype) | _judges(config, features, dtype)
    params = _start(config, base)
    texts = _texts(config, preset)
    distillation = _distillation(config, generator)
    if distillation:
        params["regulariser"] = _unet_lora(config, base["unet"], config.seed + 1, first=True)
    critic = _critic(config, features, params, frozen, dtype)
    loss = make_loss(config.loss.to_dict(), generator, texts, critic, distillation)
    groups = [tuple(name for name in (LORA, CONV_IN) if name in params)]
    groups += [("regulariser",)] if distillation else []
    turns = [Turn(loss, tuple(groups))]
    if critic:
        turns.append(_discriminate(generator, texts, critic))
    train, held_out = (Tokenized(batches) for batches in training_batches(config))
    return Objective(
        params,
        frozen,
        loss,
        train,
        validation(generator, texts, held_out(0)),
        exported(preset, base, generator.lora_scale, config.lora.alpha),
        turns=tuple(turns),
        headers=headers(preset, params),
    )


def make_loss(
    weights: dict[str, float],
    generator: Generator,
    texts: Texts,
    critic: Critic | None,
    distillation: Distillation | None,
) -> LossFn:
    """Return the generator's loss: a weighted sum of terms; a term without a weight is not computed.

    Args:
        weights: of the terms, see `make`.
        generator: what is trained.
        texts: (frozen, batch) -> embeddings of the prompts and of the negative prompt.
        critic: of `gan`.
        distillation: of `vsd` and `regulariser`.
    """

    def loss(params: Params, frozen: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, dict]:
        """(trained, frozen, batch of `hq` and `lq`, key) -> (scalar, metrics)."""
        drawn, others = jax.random.split(key)
        truth, (context, negative) = to_signed(batch["hq"]), texts(frozen, batch)
        out, z0 = generator.restore(params, frozen, to_signed(batch["lq"]), context, drawn)
        terms = data_terms(weights, frozen, out, truth)
        if critic:
            judge = params["discriminator"], params["spectral"], frozen["critic"]
            terms["gan"] = critic.fooled(*judge, out)
        if distillation:
            real = distillation.real(frozen["unet"], context, negative)
            fake = distillation.fake(params["regulariser"], frozen["unet"], context)
            terms |= distillation.losses(real, fake, z0, others)
        return weighted_sum(weights, terms), terms

    return loss


def data_terms(
    weights: dict[str, float], frozen: Params, out: jax.Array, truth: jax.Array
) -> dict[str, jax.Array]:
    """Return `mse` and `lpips` of results and truths (B, H, W, 3) in about [-1, 1], those that have a weight."""
    terms = {}
    if weights.get("mse"):
        terms["mse"] = jnp.mean(jnp.square(out - truth))
    if weights.get("lpips"):
        terms["lpips"] = lpips_loss(frozen["lpips"], out, truth, net="vgg")
    return terms


def validation(generator: Generator, texts: Texts, sample: dict[str, np.ndarray]):
    """Return (params, frozen) -> (PSNR of results and inputs on held-out crops; picture of input, result, truth)."""

    @jax.jit
    def run(params: Params, frozen: Params, batch: Batch) -> jax.Array:
        context, _ = texts(frozen, batch)
        return generator.restore(params, frozen, to_signed(batch["lq"]), context, jax.random.key(0))[0]

    lq, hq = (np.asarray(to_unit(sample[name])) for name in ("lq", "hq"))

    def validate(params: Params, frozen: Params) -> tuple[dict[str, float], np.ndarray]:
        # Eight at a time: the whole set would not fit beside the training state at full size.
        parts = [{name: x[i : i + 8] for name, x in sample.items()} for i in range(0, len(lq), 8)]
        out = np.concatenate([np.asarray(run(params, frozen, part), np.float32) for part in parts])
        out = np.clip((out + 1) / 2, 0, 1)
        values = {"psnr": mean_psnr(out, hq), "psnr_input": mean_psnr(lq, hq)}
        return values, tile_grid([image[:8] for image in (lq, out, hq)])

    return validate


def _discriminate(generator: Generator, texts: Texts, critic: Critic) -> Turn:
    """The discriminator's turn: it sees the results of the generator that has just been trained."""

    def loss(params: Params, frozen: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, dict]:
        context, _ = texts(frozen, batch)
        out, _ = generator.restore(params, frozen, to_signed(batch["lq"]), context, key)
        judge = params["discriminator"], params["spectral"], frozen["critic"]
        value = critic.told_apart(*judge, to_signed(batch["hq"]), jax.lax.stop_gradient(out))
        return value, {"discriminator": value}

    def carry(params: Params) -> Params:
        return {"spectral": critic.moved(params["discriminator"], params["spectral"])}

    return Turn(loss, (("discriminator",),), carry)


def _critic(
    config: Config, features: Features | None, params: Params, frozen: Params, dtype: DTypeLike
) -> Critic | None:
    """Return the discriminator, if there is one, and add its start to `params`."""
    if features is None:
        return None
    critic = Critic(features.extract, FeatureDiscriminator(config.critic.width, dtype), dtype)
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    start = critic.start(key, frozen["critic"], config.data.crop.size)
    params["discriminator"], params["spectral"] = start
    return critic


def _distillation(config: Config, generator: Generator) -> Distillation | None:
    if not config.loss.get("vsd"):
        return None
    scale, guidance = generator.lora_scale, config.distillation.cfg_scale
    return Distillation(generator.schedule, generator.unet, scale, guidance)


def _texts(config: Config, preset: Preset) -> Texts:
    """Return (frozen, batch) -> embeddings (B, 77, D) of prompts and of the negative prompt; None without text."""
    if preset.text is None:
        return lambda frozen, batch: (None, None)
    text = preset.make_text(PRECISIONS[optional(config, "precision")])
    avoided = config.distillation.negative_prompt if config.loss.get("vsd") else ""
    empty, negative = (jnp.asarray(tokenize([prompt])) for prompt in ("", avoided))

    def embed(frozen: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
        count = len(batch["lq"])
        # Without captions one empty prompt serves all images.
        tokens = batch.get("tokens", empty)
        context = apply(text, frozen["text"], jnp.concatenate([tokens, negative]))
        rows = (count, *context.shape[1:])
        return jnp.broadcast_to(context[:-1], rows), jnp.broadcast_to(context[-1:], rows)

    return embed


def _start(config: Config, base: dict[str, Params]) -> Params:
    """Return the generator's trained parameters: LoRAs that change nothing yet, and perhaps the first convolution."""
    rank, first = int(config.lora.rank), bool(config.lora.conv_in)
    params: Params = {LORA: {"unet": _unet_lora(config, base["unet"], config.seed, first)}}
    if config.lora.encoder:
        params[LORA]["vae"] = new_lora(base["vae"], rank, config.seed + 2, ENCODER, gaussian=True)
    if first:
        params[CONV_IN] = base["unet"]["encoder"][CONV_IN]
    return params


def _unet_lora(config: Config, unet: Params, seed: int, first: bool) -> Params:
    layers = WITH_FIRST if first else LAYERS
    return new_lora(unet, int(config.lora.rank), seed, layers, gaussian=True)


def _loaded(config: Config, preset: Preset, name: str) -> Params:
    """Load one network of the base to the host."""
    if not config.weights.get(name):
        raise UserError(f"config.weights.{name} is missing: give the file of the base's {name}")
    return load_weights(config.weights[name], abstract_params(preset, [name])[name])


def _judges(config: Config, features: Features | None, dtype: DTypeLike) -> Params:
    """Load the networks of the losses that have a weight."""
    frozen = {"lpips": load_lpips(config.weights.lpips, net="vgg")} if config.loss.get("lpips") else {}
    return frozen | ({"critic": stored(features.load(config.weights.critic), dtype)} if features else {})


def _check(config: Config) -> None:
    """Refuse settings that mean nothing here."""
    if config.lora.rank < 1 or not config.lora.alpha > 0:
        raise UserError(
            f"config.lora has rank {config.lora.rank} and alpha {config.lora.alpha}, must be at least 1 and above 0"
        )
    if unknown := sorted(set(config.loss) - set(TERMS)):
        raise UserError(f"config.loss has no term {', '.join(unknown)}; there are {', '.join(TERMS)}")
    for term, section in SECTIONS.items():
        if config.loss.get(term) and section not in config:
            raise UserError(f"config.loss.{term} needs a section config.{section}, which is missing")
    if not (config.loss.get("mse") or config.loss.get("lpips")):
        raise UserError("config.loss has neither mse nor lpips: nothing would hold results to the truth")
    if bool(config.loss.get("vsd")) != bool(config.loss.get("regulariser")):
        raise UserError(
            "config.loss must weigh both vsd and regulariser, or none: the first needs the second"
        )
