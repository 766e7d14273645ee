"""Programs of a pod without its devices: training steps of stage 2, and its sampling, with abstract arguments."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from configs import bsr, finetune
from diffbir_jax.models.apply import Params, apply
from diffbir_jax.models.lora import DEFAULT_ALPHA
from diffbir_jax.models.platform import batches_over
from diffbir_jax.models.presets import Preset
from diffbir_jax.restoration.generator import Generator
from diffbir_jax.sampling.guidance import pixel_weight
from diffbir_jax.sampling.layout import Conditioned
from diffbir_jax.sampling.loop import image_keys, sample
from diffbir_jax.sampling.options import Options
from diffbir_jax.sharding import batch_sharding, replicated, tree_shardings
from diffbir_jax.training.control_images import Stage2Options, abstract_frozen, abstract_trainable, make_loss
from diffbir_jax.training.finetune import TUNED
from diffbir_jax.training.lora_start import new_lora
from diffbir_jax.training.state import LossFn, init_state, make_optimizer, make_step
from diffbir_jax.weights.loading import PRECISIONS, abstract_params, stored

PRECISION = "bf16"
SIDE = 512
# The sampler that the published tables use: spaced DDPM, classifier-free and region-adaptive guidance.
SAMPLING = Options(steps=50, cfg_scale=4.0, guidance_scale=0.5)


class Program(NamedTuple):
    """A jitted function, which knows the shardings of its arguments.

    Attributes:
        function: the function.
        arguments: abstract ones.
        weights: the place of the networks that do not change among them.
    """

    function: Any
    arguments: tuple[Any, ...]
    weights: int


def training_step(preset: Preset, mesh: Mesh, images: int, remat: bool) -> Program:
    """The step of stage 2 from images: AdamW, clipping, EMA; bfloat16 with float32 master weights.

    Args:
        preset: one with text.
        mesh: the devices; parameters and what is shaped like them are split over its axis "fsdp" by the shipped rules.
        images: of a batch, on all devices.
        remat: recompute the blocks of UNet and IRControlNet in the backward pass.
    """
    config = bsr.get_config()
    options = Stage2Options(noise_aug=config.diffusion.noise_aug, precision=PRECISION, remat=remat)
    image = jax.ShapeDtypeStruct((images, SIDE, SIDE, 3), jnp.uint8)
    batch = {"hq": image, "lq": image, "tokens": jax.ShapeDtypeStruct((images, 77), jnp.int32)}
    trained, frozen = abstract_trainable(preset, options), abstract_frozen(preset, options)
    return _step(config, mesh, make_loss(preset, options), trained, frozen, batch)


def lora_step(preset: Preset, mesh: Mesh, images: int, remat: bool) -> Program:
    """The step of `diffbir finetune`: LoRAs of UNet and IRControlNet on crops that were encoded once.

    Args:
        preset: v1, v2 or v2.1.
        mesh, images, remat: as in `training_step`.
    """
    config = finetune.get_config(preset.name)
    shapes = abstract_params(preset, TUNED)
    loras = {name: new_lora(shapes[name], config.lora.rank, config.seed) for name in TUNED}
    frozen = jax.eval_shape(lambda params: stored(params, PRECISIONS[PRECISION]), shapes)
    side, dim = SIDE // preset.vae.downsample, preset.unet.context_dim
    latent = jax.ShapeDtypeStruct((images, side, side, preset.vae.embed_dim), jnp.float32)
    context = jax.ShapeDtypeStruct((images, 77, dim), jnp.float32)
    batch = {"z0": latent, "clean": latent, "context": context}
    return _step(config, mesh, lora_loss(preset, remat), {"lora": loras}, frozen, batch)


def lora_loss(preset: Preset, remat: bool) -> LossFn:
    """The loss of `lora_step`."""
    config = finetune.get_config(preset.name)
    noise_aug, scale = config.diffusion.noise_aug, DEFAULT_ALPHA / config.lora.rank
    options = Stage2Options(noise_aug=noise_aug, precision=PRECISION, remat=remat, lora_scale=scale)
    return make_loss(preset, options)


def _step(
    config: Any, mesh: Mesh, loss: LossFn, trained: Params, frozen: Params, batch: dict[str, Any]
) -> Program:
    """The step of a run of `config`, sharded as by the train loop."""
    optimizer = make_optimizer(config.train)
    state = jax.eval_shape(lambda params: init_state(params, optimizer, config.seed), trained)
    where, everywhere = tree_shardings(state, mesh, config.sharding_rules), replicated(mesh)
    step = jax.jit(
        make_step(loss, optimizer, config.train.ema_decay),
        in_shardings=(where, everywhere, batch_sharding(mesh)),
        out_shardings=(where, everywhere),
        donate_argnums=0,
    )
    return Program(step, (state, frozen, batch), weights=1)


def sampling(
    preset: Preset,
    mesh: Mesh,
    images: int,
    options: Options | None = None,
    side: int | None = None,
    precision: str = PRECISION,
) -> Program:
    """Stage 2 from stage-1 images to results: encoder, sampler, decoder; all weights in one precision.

    Args:
        preset, mesh, images: as in `training_step`; text embeddings of both prompts are given.
        options: how to sample; by default `SAMPLING`.
        side: of the images, in pixels; by default `SIDE`.
        precision: a key of `PRECISIONS`.
    """
    options, side = options or SAMPLING, side or SIDE

    def restore(
        params: dict[str, Params], clean: jax.Array, context: tuple[jax.Array, jax.Array]
    ) -> jax.Array:
        """Restore stage-1 images (B, side, side, 3) in [0, 1]."""
        with batches_over(mesh):
            generator, vae = Generator(preset, params, dtype), preset.make_vae(dtype)
            target, scale = 2.0 * clean - 1.0, preset.vae.scale_factor
            latent = scale * apply(vae, params["vae"], target, method="encode")[0]
            weight = pixel_weight(options.guidance_loss, target)
            keys = image_keys(options.seed, range(images))
            z = sample(*generator.steered(Conditioned(latent, weight, target), options, keys, context))
            return apply(vae, params["vae"], z / scale, method="decode")

    dtype = PRECISIONS[precision]
    everywhere, split = replicated(mesh), batch_sharding(mesh)
    params = abstract_params(preset, ("vae", "unet", "control"))
    params = jax.eval_shape(lambda params: stored(params, dtype), params)
    clean = jax.ShapeDtypeStruct((images, side, side, 3), jnp.float32)
    text = jax.ShapeDtypeStruct((1, 77, preset.unet.context_dim), jnp.float32)
    function = jax.jit(restore, in_shardings=(everywhere, split, everywhere), out_shardings=split)
    return Program(function, (params, clean, (text, text)), weights=0)
