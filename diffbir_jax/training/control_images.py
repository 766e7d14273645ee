"""Stage 2 from images, as DiffBIR trains it: the frozen networks that prepare latents run inside the step.

The VAE encodes the high-quality image to the latent z0. The restoration module cleans the low-quality image; the latent
of the result is the condition (Lin et al. 2023, section 3.2). Only IRControlNet is trained, together with the
condition's encoder if that is not the autoencoder. Batches may also be encoded beforehand (`pool.py`). Then the step
needs only one frozen network, the UNet.

The same parts fine-tune both networks (`finetune.py`): what is trained takes the place of frozen parameters of that
name, and LoRAs (`lora`, by network) run beside the kernels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from diffbir_jax.console.errors import UserError
from diffbir_jax.diffusion.schedule import Schedule, make_schedule, q_sample
from diffbir_jax.models.apply import Params, abstract, apply
from diffbir_jax.models.lora import runner
from diffbir_jax.models.presets import Preset
from diffbir_jax.text.tokenizer import tokenize
from diffbir_jax.training.prior import Denoise, diffusion_loss
from diffbir_jax.training.sources import to_signed, to_unit
from diffbir_jax.training.state import Batch, LossFn
from diffbir_jax.weights.loading import PRECISIONS, abstract_params, stored

Condition = Literal["vae", "conv"]
Precision = Literal["fp32", "bf16"]
Encode = Callable[[Params, Batch], Batch]


@dataclass(frozen=True)
class Stage2Options:
    """Options of stage-2 training beside the preset. A preset without a restoration module trains without stage 1.

    Attributes:
        condition: the encoder of the stage-1 image: the frozen autoencoder ("vae"), or a small convolutional network
            that is trained too ("conv", as in ControlNet).
        noise_aug: the condition is noised to a uniform timestep below this one (v2.1: 200); 0 leaves it clean.
        min_snr: gamma of the loss weights of Hang et al. (2023); None for equal weights.
        focus: distribution of the timesteps, see `draw_timesteps`; None draws them uniformly.
        precision: compute precision, and the precision of frozen kernels. Trained parameters are always float32.
        remat: recompute the activations of the UNet's and the IRControlNet's blocks in the backward pass.
        lora_scale: factor on LoRAs that are trained: alpha / rank.

    Raises:
        ValueError: a value is not allowed.
    """

    condition: Condition = "vae"
    noise_aug: int = 0
    min_snr: float | None = None
    focus: tuple[float, float] | None = None
    precision: Precision = "fp32"
    remat: bool = False
    lora_scale: float = 1.0

    # Typed literals are not checked at run time, and these values come from the command line.
    def __post_init__(self) -> None:
        for name, kind in (("condition", Condition), ("precision", Precision)):
            if getattr(self, name) not in get_args(kind):
                raise UserError(f"{name} is {getattr(self, name)!r}, allowed are {', '.join(get_args(kind))}")
        if not 0 <= self.noise_aug <= 1000:
            raise UserError(f"noise_aug is {self.noise_aug}, must be a timestep, 0 to 1000")

    @property
    def dtype(self) -> DTypeLike:
        """Compute dtype of the networks."""
        return PRECISIONS[self.precision]


class Stage2(NamedTuple):
    """The parts of the objective; none holds weights.

    Attributes:
        schedule: the noise schedule.
        encode: (frozen, batch of images) -> encoded batch. It holds `z0` (B, h, w, C), `clean`, the stage-1 images
            (B, H, W, 3) in [-1, 1] or their latents (B, h, w, C), and `context` (B, 77, D) if the preset reads text.
            A batch that holds `z0` is already encoded: it is returned unchanged and `frozen` is not read. A batch may
            bring its stage-1 images, `restored` (B, H, W, 3) in [0, 1]: then `frozen` needs no restoration module.
        denoise: see `diffusion_loss`; takes an encoded batch.
        loss: takes a batch of images or an encoded batch.
    """

    schedule: Schedule
    encode: Encode
    denoise: Denoise
    loss: LossFn


def make_stage2(preset: Preset, options: Stage2Options) -> Stage2:
    """Build the objective of a preset.

    Batches hold `hq` and `lq` (B, H, W, 3), uint8 or float32 in [0, 1], H and W multiples of the preset's `multiple`,
    and `tokens` (B, 77) int32 if there are captions; without captions all prompts are "".

    Raises:
        ValueError: the preset's restoration module enlarges images.
    """
    # Batches hold hq and lq of one size, so an enlarging module has no matching condition.
    if preset.rm is not None and preset.rm.scale != 1:
        raise UserError(
            f"the restoration module of preset {preset.name} enlarges by {preset.rm.scale}; stage 2 is trained with "
            "one that keeps the size, such as SwinIR: give its file as config.weights.rm"
        )
    schedule = make_schedule(
        zero_terminal_snr=preset.zero_terminal_snr, parameterization=preset.parameterization
    )
    encode, denoise = _make_encode(preset, options), _make_denoise(preset, options, schedule)
    diffusion = diffusion_loss(schedule, denoise, focus=options.focus, min_snr=options.min_snr)

    def loss(params: Params, frozen: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, dict]:
        draw, key = jax.random.split(key)
        encoded = encode(frozen, batch)
        if options.noise_aug:
            # Noise conditioning augmentation, as in cascaded diffusion models (Ho et al., 2022).
            encoded |= draw_augmentation(draw, encoded["z0"].shape, options.noise_aug)
        return diffusion(params, frozen, encoded, key)

    return Stage2(schedule, encode, denoise, loss)


def make_loss(preset: Preset, options: Stage2Options) -> LossFn:
    """Return the loss (trainable, frozen, batch, key) -> (scalar, metrics) of `make_stage2`."""
    return make_stage2(preset, options).loss


def abstract_frozen(preset: Preset, options: Stage2Options) -> Params:
    """Shapes and stored dtypes of the frozen parameters: those of "rm", "vae", "unet", "text" that the preset has."""
    names = [name for name in preset.modules if name != "control"]
    return jax.eval_shape(partial(stored, dtype=options.dtype), abstract_params(preset, names))


def abstract_trainable(preset: Preset, options: Stage2Options) -> Params:
    """Shapes and dtypes (float32) of the trained parameters: "control" and, with the condition "conv", "condition"."""
    params = abstract_params(preset, ["control"])
    if options.condition == "conv":
        image = jax.ShapeDtypeStruct((1, preset.multiple, preset.multiple, 3), jnp.float32)
        params["condition"] = abstract(preset.make_condition(), image)
    return params


def draw_augmentation(key: jax.Array, shape: tuple[int, ...], below: int) -> dict[str, jax.Array]:
    """Draw the noise of the condition (B, h, w, C): `aug_t` (B,) int32 in [0, below) and `aug_noise` (B, h, w, C)."""
    times, noise = jax.random.split(key)
    t = jax.random.randint(times, shape[:1], 0, below, jnp.int32)
    return {"aug_t": t, "aug_noise": jax.random.normal(noise, shape)}


def _make_encode(preset: Preset, options: Stage2Options) -> Encode:
    """Return `Stage2.encode`: the frozen networks applied to a batch of images."""
    vae, dtype = preset.make_vae(options.dtype), options.dtype
    rm = None if preset.rm is None else preset.make_rm(dtype)
    text = None if preset.text is None else preset.make_text(dtype)

    def latent(frozen: Params, image: jax.Array) -> jax.Array:
        return preset.vae.scale_factor * apply(vae, frozen["vae"], image, method="encode")[0]

    def restored(frozen: Params, batch: Batch) -> jax.Array:
        if "restored" in batch:
            return batch["restored"]
        lq = to_unit(batch["lq"])
        return lq if rm is None else apply(rm, frozen["rm"], lq).astype(jnp.float32)

    def encode(frozen: Params, batch: Batch) -> Batch:
        """Return the batch with the latents of its images, unless it has them."""
        if "z0" in batch:
            return dict(batch)
        # Clipped as in restoration: training and sampling must see the same conditions.
        clean = 2.0 * jnp.clip(restored(frozen, batch), 0.0, 1.0) - 1.0
        encoded = {"z0": latent(frozen, to_signed(batch["hq"]))}
        encoded["clean"] = latent(frozen, clean) if options.condition == "vae" else clean
        if text is not None:
            # Without captions one empty prompt serves all images.
            context = apply(text, frozen["text"], batch.get("tokens", jnp.asarray(tokenize([""]))))
            encoded["context"] = jnp.broadcast_to(context, (len(clean), *context.shape[1:]))
        return encoded

    return encode


def _make_denoise(preset: Preset, options: Stage2Options, schedule: Schedule) -> Denoise:
    """Return `Stage2.denoise`: the UNet, steered by the IRControlNet; what is trained comes before what is frozen."""
    unet = preset.make_unet(options.dtype, options.remat)
    control = preset.make_control(options.dtype, options.remat)
    encoder = preset.make_condition(options.dtype) if options.condition == "conv" else None

    def denoise(params: Params, frozen: Params, batch: Batch, z_t: jax.Array, t: jax.Array) -> jax.Array:
        run = runner(params, frozen, options.lora_scale)
        hint, context = batch["clean"], batch.get("context")
        if encoder is not None:
            hint = run("condition", encoder, hint)
        if "aug_t" in batch:
            hint = q_sample(schedule, hint, batch["aug_t"], batch["aug_noise"])
        controls = run("control", control, z_t, hint, t, context)
        return run("unet", unet, z_t, t, context, controls)

    return denoise
