"""The diffusion prior: a UNet that denoises latents of clean photos without a condition."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from diffbir_jax.console.errors import UserError
from diffbir_jax.data.batches import split
from diffbir_jax.diffusion.schedule import (
    Schedule,
    make_schedule,
    q_sample,
    signal_and_noise,
    training_target,
)
from diffbir_jax.models.apply import apply, init
from diffbir_jax.models.presets import get_preset
from diffbir_jax.training.config import Config
from diffbir_jax.training.latents import latent_batches
from diffbir_jax.training.objective import Objective
from diffbir_jax.training.report import tile_grid
from diffbir_jax.training.state import LossFn

# Timesteps, as shares of T, at which the held-out loss is reported.
VALIDATION_TIMES = (0.1, 0.25, 0.4, 0.7)
# Examples that validation computes at once. At full size, all of them would not fit beside the training state.
TOGETHER = 8
Denoise = Callable[[dict, dict, dict[str, jax.Array], jax.Array, jax.Array], jax.Array]


def make(config: Config) -> Objective:
    """Build the prior's objective; batches hold `z0` (B, h, w, C) scaled latents."""
    preset = get_preset(config.preset)
    schedule = make_schedule(
        zero_terminal_snr=preset.zero_terminal_snr, parameterization=preset.parameterization
    )
    unet = preset.make_unet()
    train, held_out = latent_batches(config)
    z = jnp.asarray(held_out.pool["z0"][:1], jnp.float32)
    params = init(unet, jax.random.key(config.seed), z, jnp.zeros(1, jnp.int32))

    def denoise(
        params: dict, frozen: dict, batch: dict[str, jax.Array], z_t: jax.Array, t: jax.Array
    ) -> jax.Array:
        return apply(unet, params, z_t, t)

    loss = diffusion_loss(schedule, denoise, **config.diffusion)
    validate = validation(schedule, denoise, held_out(0))
    return Objective(params, {}, loss, train, validate, lambda ema: {"unet": ema})


def draw_timesteps(key: jax.Array, count: int, total: int, focus: tuple[float, float] | None) -> jax.Array:
    """Draw `count` timesteps from [0, total): uniformly, or with a focus on low timesteps.

    With `focus` = (share, below), that share of the timesteps is drawn below `below` * total, the rest from all.
    Sampling that starts from a noised condition visits only low timesteps, so a small model spends its capacity there.
    """
    if focus is None:
        return jax.random.randint(key, (count,), 0, total, jnp.int32)
    share, below = focus
    where, value = jax.random.split(key)
    bound = jnp.where(jax.random.bernoulli(where, share, (count,)), below * total, float(total))
    return jnp.floor(jax.random.uniform(value, (count,)) * bound).astype(jnp.int32)


def min_snr_weight(schedule: Schedule, t: jax.Array, gamma: float) -> jax.Array:
    """Return the min-SNR weights of the squared error at timesteps `t` (B,) (Hang et al. 2023, equation 10).

    A weighted error equals min(SNR, gamma) times the error of x0. The error of eps is SNR times that of x0, the error
    of v is SNR + 1 times. With signal^2 + noise^2 = 1, the weight is min(signal^2, gamma noise^2) for v, and the same
    divided by signal^2 for eps. These forms stay finite without noise and, for v, without signal.

    Returns:
        (B,) float32 in [0, 1].
    """
    signal, noise = (jnp.square(x[:, 0, 0, 0]) for x in signal_and_noise(schedule, t))
    weight = jnp.minimum(signal, gamma * noise)
    return weight if schedule.parameterization == "v" else weight / signal


def diffusion_loss(
    schedule: Schedule,
    denoise: Denoise,
    focus: tuple[float, float] | None = None,
    min_snr: float | None = None,
) -> LossFn:
    """Return the loss |target - output|^2 at random timesteps (L_GM of the paper, or its v form).

    Args:
        schedule: noise schedule and parameterization.
        denoise: (params, frozen, batch, z_t, t) -> network output.
        focus: see `draw_timesteps`; None draws timesteps uniformly.
        min_snr: gamma of `min_snr_weight`; None gives all timesteps the same weight.

    Raises:
        ValueError: gamma is not above 0.
    """
    if min_snr is not None and not min_snr > 0:
        raise UserError(f"min_snr is {min_snr}, must be above 0 (5 in the paper), or None for no weights")

    def loss(params: dict, frozen: dict, batch: dict, key: jax.Array) -> tuple[jax.Array, dict]:
        times, noises = jax.random.split(key)
        t = draw_timesteps(times, len(batch["z0"]), schedule.num_timesteps, focus)
        noise = jax.random.normal(noises, batch["z0"].shape)
        output = denoise(params, frozen, batch, q_sample(schedule, batch["z0"], t, noise), t)
        error = jnp.square(output - training_target(schedule, batch["z0"], t, noise))
        if min_snr is not None:
            error = error * min_snr_weight(schedule, t, min_snr)[:, None, None, None]
        return jnp.mean(error), {}

    return loss


def validation(
    schedule: Schedule,
    denoise: Denoise,
    batch: dict[str, np.ndarray],
    encode: Callable[[dict, dict], dict] = lambda frozen, batch: batch,
):
    """Return the validation: the held-out loss at fixed timesteps and noise, and a picture of three output channels.

    Args:
        schedule: noise schedule and parameterization.
        denoise: as for `diffusion_loss`.
        batch: held-out examples.
        encode: (frozen, batch) -> a batch of latents for `denoise`; needed if the examples are images.

    Returns:
        (params, frozen) -> (losses by timestep, and their mean as `loss`; picture (H, W, 3) uint8).
    """
    prepare, parts = jax.jit(encode), split(batch, TOGETHER)
    count = sum(len(next(iter(part.values()))) for part in parts)

    @jax.jit
    def at(
        params: dict, frozen: dict, latents: dict, noise: jax.Array, t: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        times = jnp.broadcast_to(t, (len(noise),))
        output = denoise(params, frozen, latents, q_sample(schedule, latents["z0"], times, noise), times)
        error = jnp.square(output - training_target(schedule, latents["z0"], times, noise))
        return jnp.mean(error, axis=(1, 2, 3)), output

    def validate(params: dict, frozen: dict) -> tuple[dict[str, float], np.ndarray]:
        # Encode once for all timesteps: the frozen networks cost more than the denoising.
        values, pictures, encoded = {}, [], [prepare(frozen, part) for part in parts]
        # The same noise in every validation, so that losses differ only by the weights.
        noise = jax.random.normal(jax.random.key(0), (count, *encoded[0]["z0"].shape[1:]))
        noises = [part["noise"] for part in split({"noise": np.asarray(noise)}, TOGETHER)]
        for share in VALIDATION_TIMES:
            t = jnp.int32(share * schedule.num_timesteps)
            found = [at(params, frozen, latents, noise, t) for latents, noise in zip(encoded, noises)]
            values[f"loss_{share:g}T"] = float(np.mean(np.concatenate([errors for errors, _ in found])))
            pictures.append(np.asarray(found[0][1])[..., :3] / 4 + 0.5)
        return {"loss": float(np.mean(list(values.values())))} | values, tile_grid(pictures)

    return validate
