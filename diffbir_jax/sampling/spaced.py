"""Spaced DDPM: ancestral sampling on a subset of the training timesteps."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from diffbir_jax.sampling.loop import Sampler
from diffbir_jax.sampling.timesteps import Level, SpacedStep


def spaced_step(
    denoise: Callable[[Array, Level], Array], carry: tuple[Array], step: SpacedStep, noise: Array
) -> tuple[Array]:
    """One step of DDPM (Ho et al. 2020, algorithm 2), with the posterior's own variance.

    Args:
        denoise: (z_t, level) -> x0.
        carry: (z_t,), float32 (B, h, w, c).
        step: scalars of this step.
        noise: standard normal, shape of z_t.

    Returns:
        (z_prev,): a draw from q(z_prev | z_t, x0).
    """
    (x,) = carry
    x0 = denoise(x, step.level)
    mean = x0 * step.coef_x0 + x * step.coef_x
    return (mean + noise * jnp.sqrt(step.variance),)


SPACED = Sampler(init=lambda x: (x,), step=spaced_step)
