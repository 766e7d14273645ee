"""Programs of a pod without its devices: the training step of stage 2, and its sampling, with abstract arguments."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from configs.common import tiny_config
from diffbir_jax.diffusion.schedule import make_schedule, q_sample, training_target
from diffbir_jax.loading import CAST, abstract_params
from diffbir_jax.models.apply import Params, apply
from diffbir_jax.models.controlnet import IRControlNet
from diffbir_jax.models.presets import Preset
from diffbir_jax.models.unet import UNet
from diffbir_jax.sampling.options import Options
from diffbir_jax.sharding import batch_sharding, replicated, tree_shardings
from diffbir_jax.stage2 import Generator
from diffbir_jax.training.state import Batch, LossFn, init_state, make_optimizer, make_step

HALF = jnp.bfloat16
SIDE = 512
# The sampler that the published tables use: spaced DDPM, classifier-free and region-adaptive guidance.
SAMPLING = Options(steps=50, cfg_scale=4.0, guidance_scale=0.5)


class Program(NamedTuple):
    """A jitted function, which knows the shardings of its arguments, and these, abstract."""

    function: Any
    arguments: tuple[Any, ...]


def training_step(preset: Preset, mesh: Mesh, images: int, remat: bool) -> Program:
    """The step of stage 2 from images: AdamW, clipping, EMA; frozen networks in bfloat16, float32 master weights.

    Args:
        preset: one with text.
        mesh: the devices; parameters and what is shaped like them are split over its axis "fsdp" by the shipped rules.
        images: of a batch, on all devices.
        remat: recompute the blocks of UNet and IRControlNet in the backward pass.
    """
    config = tiny_config("control", crop=SIDE, batch_size=images, steps=80_000, lr=1e-5)
    optimizer = make_optimizer(config.train)
    frozen = abstract_params(preset)
    state = jax.eval_shape(lambda params: init_state(params, optimizer, 0), frozen.pop("control"))
    where, everywhere = tree_shardings(state, mesh, config.sharding_rules), replicated(mesh)
    step = jax.jit(
        make_step(_loss(preset, remat), optimizer, config.train.ema_decay),
        in_shardings=(where, everywhere, batch_sharding(mesh)),
        out_shardings=(where, everywhere),
        donate_argnums=0,
    )
    image = jax.ShapeDtypeStruct((images, SIDE, SIDE, 3), jnp.uint8)
    tokens = jax.ShapeDtypeStruct((images, 77), jnp.int32)
    return Program(step, (state, _halved(frozen), {"hq": image, "lq": image, "tokens": tokens}))


def sampling(preset: Preset, mesh: Mesh, images: int) -> Program:
    """Stage 2 from stage-1 images to results: encoder, `SAMPLING`, decoder; all weights in bfloat16.

    Arguments as in `training_step`; text embeddings of both prompts are given.
    """

    def restore(
        params: dict[str, Params], clean: jax.Array, context: tuple[jax.Array, jax.Array]
    ) -> jax.Array:
        return Generator(preset, params, HALF).stage2(clean, SAMPLING, context=context)

    everywhere, split = replicated(mesh), batch_sharding(mesh)
    params = abstract_params(preset, ("vae", "unet", "control"))
    clean = jax.ShapeDtypeStruct((images, SIDE, SIDE, 3), jnp.float32)
    text = jax.ShapeDtypeStruct((1, 77, preset.unet.context_dim), jnp.float32)
    function = jax.jit(restore, in_shardings=(everywhere, split, everywhere), out_shardings=split)
    return Program(function, (_halved(params), clean, (text, text)))


def _halved(params: Any) -> Any:
    """Kernels in bfloat16, everything small in float32, as `loading` places them."""

    def halve(path: tuple[Any, ...], x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, HALF if path[-1].key in CAST else x.dtype)

    return jax.tree_util.tree_map_with_path(halve, params)


def _loss(preset: Preset, remat: bool) -> LossFn:
    """|target - output|^2 at uniform timesteps; batches hold `hq`, `lq` (B, H, W, 3) uint8 and `tokens` (B, 77)."""
    schedule = make_schedule(
        zero_terminal_snr=preset.zero_terminal_snr, parameterization=preset.parameterization
    )
    unet, control = (
        UNet(preset.unet, HALF, remat),
        IRControlNet(preset.unet, preset.vae.embed_dim, HALF, remat),
    )
    rm, text = preset.make_rm(HALF), preset.make_text(HALF)
    encode = _encoder(preset)

    def loss(params: Params, frozen: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, dict]:
        hq, lq = (batch[name].astype(jnp.float32) / 255.0 for name in ("hq", "lq"))
        z0 = encode(frozen["vae"], hq)
        condition = encode(frozen["vae"], jnp.clip(apply(rm, frozen["rm"], lq), 0.0, 1.0))
        context = apply(text, frozen["text"], batch["tokens"])
        times, noises = jax.random.split(key)
        t = jax.random.randint(times, (len(z0),), 0, schedule.num_timesteps)
        noise = jax.random.normal(noises, z0.shape)
        z_t = q_sample(schedule, z0, t, noise)
        controls = apply(control, params, z_t, condition, t, context)
        output = apply(unet, frozen["unet"], z_t, t, context, controls)
        return jnp.mean(jnp.square(output - training_target(schedule, z0, t, noise))), {}

    return loss


def _encoder(preset: Preset) -> Callable[[Params, jax.Array], jax.Array]:
    """Images (B, H, W, 3) in [0, 1] to scaled latents."""
    vae = preset.make_vae(HALF)
    return lambda params, image: (
        preset.vae.scale_factor * apply(vae, params, 2 * image - 1, method="encode")[0]
    )
