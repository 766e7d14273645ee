"""Stage 2: IRControlNet, a trainable copy of the UNet's encoder that steers the frozen UNet.

It trains on a pool of latents that were encoded beforehand; `training/control_images.py` encodes images in the step.
"""

import jax
import jax.numpy as jnp

from diffbir_jax.diffusion.schedule import make_schedule
from diffbir_jax.models.apply import abstract, apply
from diffbir_jax.models.controlnet import init_from_unet
from diffbir_jax.models.presets import get_preset
from diffbir_jax.training.config import Config
from diffbir_jax.training.latents import latent_batches
from diffbir_jax.training.objective import Objective
from diffbir_jax.training.prior import diffusion_loss, validation
from diffbir_jax.weights.safetensors import load_weights


def make(config: Config) -> Objective:
    """Build the stage-2 objective; batches hold `z0` and `condition` (B, h, w, C) scaled latents.

    Args:
        config: `weights.unet` is the trained prior; all other settings are as for the prior.
    """
    preset = get_preset(config.preset)
    schedule = make_schedule(
        zero_terminal_snr=preset.zero_terminal_snr, parameterization=preset.parameterization
    )
    unet, control = preset.make_unet(), preset.make_control()
    train, held_out = latent_batches(config)
    z, t = jnp.asarray(held_out.pool["z0"][:1], jnp.float32), jnp.zeros(1, jnp.int32)
    frozen = load_weights(config.weights.unet, abstract(unet, z, t))
    params = init_from_unet(frozen, z.shape[-1])

    def denoise(
        params: dict, frozen: dict, batch: dict[str, jax.Array], z_t: jax.Array, t: jax.Array
    ) -> jax.Array:
        controls = apply(control, params, z_t, batch["condition"], t)
        return apply(unet, frozen, z_t, t, None, controls)

    loss = diffusion_loss(schedule, denoise, **config.diffusion)
    return Objective(
        params, frozen, loss, train, validation(schedule, denoise, held_out(0)), lambda ema: {"control": ema}
    )
