"""Variational score distillation: pull the latents of a one-step generator towards what a diffusion model samples.

Wang et al., "ProlificDreamer", 2023, in the form of OSEDiff (Wu et al., "One-Step Effective Diffusion Network for
Real-World Image Super-Resolution", 2024). The generator's latents are noised. Two models predict the clean latents: a
frozen model (the real score) and a model that follows the generator (the fake score, also called the regulariser).
The difference of the two predictions is the gradient. `regulariser_loss` trains the fake score on the generator's
latents.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffbir_jax.diffusion.schedule import Schedule, predict_x0, q_sample, signal_and_noise, training_target

# (z_t (B, h, w, C), t (B,)) -> the network's output (B, h, w, C).
Score = Callable[[jax.Array, jax.Array], jax.Array]


def vsd_loss(
    schedule: Schedule, real: Score, fake: Score, latents: jax.Array, t: jax.Array, noise: jax.Array
) -> jax.Array:
    """Return the loss whose gradient moves `latents` along `vsd_direction`; only `latents` gets a gradient.

    Args:
        schedule: noise schedule and parameterization of both scores.
        real: the frozen model, guided as by `guided`.
        fake: the regulariser.
        latents: (B, h, w, C) float32, scaled, as the generator gives them.
        t: (B,) int32 timesteps; OSEDiff draws them from 20 to 979.
        noise: standard normal, shape of `latents`.

    Returns:
        Scalar float32: the mean square of the direction, with the gradient 2 direction / size.
    """
    constant = jax.lax.stop_gradient(latents)
    z_t = q_sample(schedule, constant, t, noise)
    predictions = (predict_clean(schedule, z_t, score(z_t, t), t) for score in (real, fake))
    direction, _ = jax.lax.stop_gradient(vsd_direction(constant, *predictions))
    # The value of the second term is 0; it only carries the gradient. The usual |latents - (latents - direction)|^2
    # has the same gradient, but loses digits of small directions.
    return jnp.mean(jnp.square(direction)) + 2 * jnp.mean(direction * (latents - constant))


def regulariser_loss(
    schedule: Schedule, fake: Score, latents: jax.Array, t: jax.Array, noise: jax.Array
) -> jax.Array:
    """Return the diffusion loss of the fake score on the generator's latents, which get no gradient.

    Args:
        schedule, fake, latents, noise: as in `vsd_loss`.
        t: (B,) int32 timesteps; OSEDiff draws them from all.

    Returns:
        Scalar float32: the mean squared error of the network's output.
    """
    constant = jax.lax.stop_gradient(latents)
    output = fake(q_sample(schedule, constant, t, noise), t)
    return jnp.mean(jnp.square(output - training_target(schedule, constant, t, noise)))


def vsd_direction(latents: jax.Array, real: jax.Array, fake: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the normalised difference of both scores.

    Args:
        latents: (B, h, w, C) float32 clean latents of the generator.
        real: clean latents as the real score predicts them, same shape.
        fake: clean latents as the fake score predicts them, same shape.

    Returns:
        (direction, weight). The direction is (fake - real) / weight, (B, h, w, C). The weight (B, 1, 1, 1) is each
        image's mean absolute difference of `latents` and `real`; it makes the direction's size independent of the
        timestep.
    """
    weight = jnp.mean(jnp.abs(latents - real), axis=(1, 2, 3), keepdims=True)
    return (fake - real) / weight, weight


def predict_clean(schedule: Schedule, z_t: jax.Array, output: jax.Array, t: jax.Array) -> jax.Array:
    """Clean latents (B, h, w, C) that a network's output at `z_t` (B, h, w, C) implies; `t` (B,) is int32."""
    return predict_x0(schedule.parameterization, z_t, output, *signal_and_noise(schedule, t))


def guided(cond: jax.Array, uncond: jax.Array, cfg_scale: float) -> jax.Array:
    """Classifier-free guidance (Ho and Salimans, 2022) of two outputs (B, h, w, C); OSEDiff's scale is 7.5."""
    return uncond + cfg_scale * (cond - uncond)
