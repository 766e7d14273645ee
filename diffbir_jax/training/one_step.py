"""Stage 2 as a one-step generator: UNet (the prior), control and decoder are trained on the images that they restore.

The latent of the input, or of stage 1, takes the place of the noisy latent at one fixed timestep. The UNet's output is
converted to x0 and decoded.
Pixel, feature and adversarial losses reach all three networks through the decoder. HYPIR (Lin et al., 2025) and
OSEDiff (Wu et al., 2024) train Stable Diffusion this way.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from diffbir_jax.diffusion.schedule import Schedule, make_schedule, predict_x0, q_sample, signal_and_noise
from diffbir_jax.files.trees import Tree
from diffbir_jax.models.apply import Module, Params, abstract, apply, init
from diffbir_jax.models.controlnet import IRControlNet, init_from_unet
from diffbir_jax.models.discriminator import DiscriminatorConfig, PatchDiscriminator
from diffbir_jax.models.lora import runner
from diffbir_jax.models.presets import Preset, get_preset
from diffbir_jax.models.unet import UNet
from diffbir_jax.models.vae import AutoencoderKL
from diffbir_jax.text.tokenizer import tokenize
from diffbir_jax.training.config import Config, optional
from diffbir_jax.training.decoder import ENCODER, gradient_ratio, hinge
from diffbir_jax.training.lpips import load_lpips, lpips_loss
from diffbir_jax.training.objective import Objective
from diffbir_jax.training.perceptual import load_features, perceptual_loss
from diffbir_jax.training.report import tile_grid
from diffbir_jax.training.rm import mean_psnr
from diffbir_jax.training.sources import to_signed, to_unit
from diffbir_jax.training.state import Batch
from diffbir_jax.training.taught import taught_batches
from diffbir_jax.training.vae import reconstruction_terms, weighted_sum
from diffbir_jax.weights.loading import PRECISIONS
from diffbir_jax.weights.safetensors import load_weights

# SHIFT: the largest shift (pixels) of the crop that feature losses see. PERIOD: side of a latent pixel in image pixels,
# and the period of the grid that a generator tends to draw.
SHIFT, PERIOD = 16, 4
# (params, frozen, lq, key) -> results and stage-1 images, see `restorer`.
Restore = Callable[[Params, Params, jax.Array, jax.Array | None], tuple[jax.Array, jax.Array]]


class Networks(NamedTuple):
    """The networks of one-step restoration."""

    rm: Module
    vae: AutoencoderKL
    unet: UNet
    control: IRControlNet


def make(config: Config) -> Objective:
    """Build the one-step objective; batches hold `lq`, `hq`, `teacher` (B, H, W, 3) uint8 and `taught` (B,).

    Args:
        config: `timestep` is the timestep that the networks receive. `noise` (0 to 1) is the share of that timestep's
            noise added to the input. `start_point` says whose latent the input is: "input", the enlarged input's, or
            "cond", the stage-1 image's, which the control always sees. `weights` names the files to start from: `rm`,
            `vae`, `text` if the preset reads text, and `unet` and `control`, which start from new weights if missing.
            It also names the networks of the losses (`perceptual`, `lpips`). `precision` and `remat` are as for stage
            2. `loss` has the weights of the terms (`losses`); a missing weight is 0. For `data.teacher` and
            `data.taught` see `taught_batches`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a setting is not allowed, or a file does not fit.
    """
    preset = get_preset(config.preset)
    networks = make_networks(preset, PRECISIONS[optional(config, "precision")], optional(config, "remat"))
    discriminator = PatchDiscriminator(DiscriminatorConfig(**config.discriminator))
    train, held_out = taught_batches(config)
    sample = held_out(0)
    params, frozen = starting_weights(config, networks, discriminator, to_signed(sample["hq"][:1]))
    if preset.text is not None:
        frozen["context"] = empty_prompt(preset, config.weights.text)
    restore = restorer(config, preset, networks)
    loss = losses(config.loss.to_dict(), restore, discriminator)
    return Objective(
        params,
        frozen,
        loss,
        train,
        validation(restore, sample),
        lambda ema: {k: ema[k] for k in ("unet", "control")} | {"vae": ema["vae"] | frozen["vae"]},
    )


def make_networks(preset: Preset, dtype: DTypeLike, remat: bool) -> Networks:
    """The preset's networks with compute dtype `dtype`; `remat` recomputes the trained networks' blocks."""
    return Networks(
        preset.make_rm(dtype),
        preset.make_vae(dtype, remat),
        preset.make_unet(dtype, remat),
        preset.make_control(dtype, remat),
    )


def restorer(config: Config, preset: Preset, networks: Networks, lora_scale: float = 1.0) -> Restore:
    """Return (params, frozen, lq, key) -> (result, stage-1 image), each (B, H, W, 3) in about [-1, 1].

    If the key is None, no noise is added. What is trained takes the place of what is frozen, see `models.lora.runner`.
    """
    schedule = make_schedule(
        zero_terminal_snr=preset.zero_terminal_snr, parameterization=preset.parameterization
    )
    scale = preset.vae.scale_factor

    def restore(
        params: Params, frozen: Params, lq: jax.Array, key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """Return results and stage-1 images (B, H, W, 3) in about [-1, 1]; without a key no noise is added."""
        clean = 2.0 * jnp.clip(apply(networks.rm, frozen["rm"], to_unit(lq)), 0.0, 1.0) - 1.0
        vae = params.get("vae", {}) | frozen["vae"]

        # The encoder stays frozen, so latents keep their meaning for the prior.
        def encode(image: jax.Array) -> jax.Array:
            return jax.lax.stop_gradient(scale * apply(networks.vae, vae, image, method="encode")[0])

        condition = encode(clean)
        start = encode(to_signed(lq)) if config.start_point == "input" else condition
        context = frozen.get("context")
        run = runner(params, frozen, lora_scale)
        z = generate(schedule, networks, run, start, condition, config.timestep, config.noise, key, context)
        return apply(networks.vae, vae, z / scale, method="decode"), clean

    return restore


def generate(
    schedule: Schedule,
    networks: Networks,
    run: Callable[..., Tree],
    start: jax.Array,
    condition: jax.Array,
    timestep: int,
    noise: float,
    key: jax.Array | None,
    context: jax.Array | None = None,
) -> jax.Array:
    """Return the clean latent that one evaluation predicts from `start`, controlled by a stage-1 latent (B, h, w, C).

    `run` is (name, network, *inputs) -> output, see `models.lora.runner`. `context` (1, tokens, D) is the embedding of
    a text that all images share, or None for networks without text.
    """
    t = jnp.full(len(start), timestep)
    if context is not None:
        context = jnp.broadcast_to(context, (len(start), *context.shape[1:]))
    drawn = jnp.zeros_like(start) if key is None else jax.random.normal(key, start.shape)
    x = q_sample(schedule, start, t, noise * drawn)
    controls = run("control", networks.control, x, condition, t, context)
    output = run("unet", networks.unet, x, t, context, controls)
    return predict_x0(schedule.parameterization, x, output, *signal_and_noise(schedule, t))


def losses(weights: dict[str, float], restore: Restore, discriminator: PatchDiscriminator):
    """Return the loss: a weighted sum of terms. A term without a weight is not computed.

    `l1`, `gradient`, `spectral` and `texture` compare with the truth (`vae.reconstruction_terms`). `teacher_l1` and
    `teacher_gradient` compare with the teacher, on examples that have one. `perceptual` (MobileNetV2) and `lpips`
    (AlexNet) compare features with those of the truth. `fidelity` compares averages of 4x4 pixels. `grid` is
    `grid_error`. The weight of `adversarial` is relative to the gradient of all other terms; `discriminator` weighs
    the discriminator's own loss.
    """

    def loss(params: Params, frozen: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, dict]:
        """Return the weighted sum of all terms, and each term by name."""
        truth, (drawn, where) = to_signed(batch["hq"]), jax.random.split(key)
        out, _ = restore(params, frozen, batch["lq"], drawn)

        def likeness(out: jax.Array) -> tuple[jax.Array, dict]:
            teacher, taught = to_signed(batch["teacher"]), batch["taught"]
            terms = likeness_terms(weights, frozen, out, truth, teacher, taught, where)
            return weighted_sum(weights, terms), terms

        total, terms = likeness(out)
        if weights.get("adversarial"):
            game, more = adversarial(weights, params["discriminator"], discriminator, out, truth, likeness)
            return total + game, terms | more
        return total, terms

    return loss


def likeness_terms(
    weights: dict[str, float],
    frozen: Params,
    out: jax.Array,
    truth: jax.Array,
    teacher: jax.Array,
    taught: jax.Array,
    key: jax.Array,
) -> dict[str, jax.Array]:
    """Return the terms of `losses` that need no discriminator.

    Feature losses see a crop at a random place, drawn from `key`. The feature networks have strided convolutions; with
    a fixed crop the generator learns to draw a grid with their stride.
    """
    # Untaught rows become 0 in both images. The division keeps the mean that of the taught rows alone.
    share = taught[:, None, None, None] / jnp.maximum(jnp.mean(taught), 1e-6)
    taught_terms = reconstruction_terms(out * share, teacher * share)
    terms = reconstruction_terms(out, truth) | {
        f"teacher_{name}": taught_terms[name] for name in ("l1", "gradient")
    }
    terms["fidelity"] = jnp.mean(jnp.abs(_coarse(out) - _coarse(truth)))
    terms["grid"] = grid_error(out)
    if weights.get("perceptual"):
        terms["perceptual"] = perceptual_loss(frozen["features"], moved(key, out), moved(key, truth))
    if weights.get("lpips"):
        terms["lpips"] = lpips_loss(frozen["lpips"], moved(key, out), moved(key, truth), net="alex")
    return {name: value for name, value in terms.items() if weights.get(name)}


def moved(key: jax.Array, image: jax.Array) -> jax.Array:
    """Crop (B, H, W, 3) by `SHIFT` rows and columns, at a random offset drawn from `key`; all images share it."""
    batch, height, width, channels = image.shape
    top, left = jax.random.randint(key, (2,), 0, SHIFT + 1)
    sizes = (batch, height - SHIFT, width - SHIFT, channels)
    return jax.lax.dynamic_slice(image, (0, top, left, 0), sizes)


def grid_error(image: jax.Array) -> jax.Array:
    """Measure how unevenly gradient energy is spread over the `PERIOD` positions within a period; 0 if it is even.

    Each image's energies are relative to their own mean, so all images count the same. The batch mean is compared,
    because a single image has its edges at some position by chance.

    Args:
        image: (B, H, W, 3) in about [-1, 1]; H and W above `PERIOD`.

    Returns:
        Scalar: the variance of the relative energies over positions, averaged over both axes.
    """
    luma = image @ jnp.array([0.299, 0.587, 0.114], image.dtype)
    return jnp.mean(jnp.stack([_unevenness(luma), _unevenness(luma.swapaxes(1, 2))]))


def _unevenness(luma: jax.Array) -> jax.Array:
    squares = jnp.mean(jnp.square(jnp.diff(luma, axis=1)), axis=2)
    places = squares[:, : squares.shape[1] // PERIOD * PERIOD].reshape(len(luma), -1, PERIOD).mean(1)
    # The constant keeps flat images, which have no gradient energy, from dividing by 0.
    relative = jnp.mean(places / (places.mean(1, keepdims=True) + 1e-4), axis=0)
    return jnp.var(relative)


def adversarial(
    weights: dict[str, float],
    params: Params,
    discriminator: PatchDiscriminator,
    out: jax.Array,
    truth: jax.Array,
    likeness: Callable[[jax.Array], tuple[jax.Array, dict]],
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Return one scalar with the losses of generator and discriminator, as in `training/decoder.py`."""

    def judge(params: Params, image: jax.Array) -> jax.Array:
        return apply(discriminator, params, image)

    def fooling(out: jax.Array) -> jax.Array:
        # The generator's loss must not train the discriminator.
        return -jnp.mean(judge(jax.lax.stop_gradient(params), out))

    terms = {"adversarial": fooling(out)}
    terms["discriminator"] = hinge(judge(params, truth), judge(params, jax.lax.stop_gradient(out)))
    # The discriminator's gradient changes by orders of magnitude in a run. The ratio holds its share
    # constant.
    weight = weights["adversarial"] * gradient_ratio(lambda x: likeness(x)[0], fooling, out)
    total = weight * terms["adversarial"] + weights["discriminator"] * terms["discriminator"]
    return total, terms | {"adversarial_weight": weight}


def validation(restore: Restore, sample: dict[str, np.ndarray]):
    """Return (params, frozen) -> (PSNR in dB of result, stage 1 and input on held-out crops; a picture of them)."""
    run = jax.jit(lambda params, frozen, lq: restore(params, frozen, lq, None))
    lq, hq = (np.asarray(to_unit(sample[name])) for name in ("lq", "hq"))

    def validate(params: Params, frozen: Params) -> tuple[dict[str, float], np.ndarray]:
        # Eight crops at a time: the whole set would not fit beside the training state at full size.
        parts = [run(params, frozen, sample["lq"][i : i + 8]) for i in range(0, len(lq), 8)]
        out, clean = (np.clip((np.concatenate(part) + 1) / 2, 0, 1) for part in zip(*parts))
        values = {name: mean_psnr(image, hq) for name, image in (("psnr", out), ("psnr_stage1", clean))}
        rows = [image[:8] for image in (lq, clean, out, hq)]
        return values | {"psnr_input": mean_psnr(lq, hq)}, tile_grid(rows)

    return validate


def starting_weights(
    config: Config, networks: Networks, discriminator: PatchDiscriminator, image: jax.Array
) -> tuple[Params, Params]:
    """Return the trained and the frozen parameters; `image` (1, H, W, 3) gives the shapes."""
    weights, keys = config.weights, jax.random.split(jax.random.key(config.seed), 3)
    vae = load_weights(weights.vae, abstract(networks.vae, image))
    z = jax.eval_shape(lambda x: apply(networks.vae, vae, x, method="encode")[0], image)
    z, t = jnp.zeros(z.shape), jnp.zeros(1, jnp.int32)
    dim = networks.unet.config.context_dim
    inputs = (z, t) if dim is None else (z, t, jnp.zeros((1, 77, dim)))
    unet = _loaded(optional(weights, "weights.unet"), networks.unet, keys[0], *inputs)
    frozen = {
        "rm": load_weights(weights.rm, abstract(networks.rm, image)),
        "vae": {k: vae[k] for k in ENCODER if k in vae},
    }
    # A loss without a weight needs no file: users train without downloading its network.
    if config.loss.get("perceptual"):
        frozen["features"] = load_features(weights.perceptual)
    if config.loss.get("lpips"):
        frozen["lpips"] = load_lpips(weights.lpips, net="alex")
    params = {
        "vae": {k: v for k, v in vae.items() if k not in ENCODER},
        "unet": unet,
        "control": _loaded_control(optional(weights, "weights.control"), networks.control, unet, z, *inputs),
    }
    if config.loss.get("adversarial"):
        params["discriminator"] = init(discriminator, keys[2], image)
    return params, frozen


def empty_prompt(preset: Preset, path: str) -> jax.Array:
    """Return the embedding (1, tokens, D) of the empty prompt, computed with the text encoder in file `path`."""
    text, tokens = preset.make_text(), jnp.asarray(tokenize([""]))
    return jax.jit(partial(apply, text))(load_weights(path, abstract(text, tokens)), tokens)


def _loaded(path: str | None, module: Module, key: jax.Array, *inputs: jax.Array) -> Params:
    """Load weights from `path`, or initialise them if there is no path."""
    return load_weights(path, abstract(module, *inputs)) if path else init(module, key, *inputs)


def _loaded_control(
    path: str | None, control: IRControlNet, unet: Params, z: jax.Array, *inputs: jax.Array
) -> Params:
    """Load the control from `path`, or copy the prior's encoder if there is no path. `z` is its condition."""
    like = abstract(control, inputs[0], z, *inputs[1:])
    return load_weights(path, like) if path else init_from_unet(unet, z.shape[-1])


def _coarse(image: jax.Array) -> jax.Array:
    """(B, H, W, 3) -> averages of 4x4 pixels."""
    batch, height, width, channels = image.shape
    return image.reshape(batch, height // 4, 4, width // 4, 4, channels).mean((2, 4))
