"""Samplers whose next latents are a linear combination of latents, predictions and noise.

They differ in their tables of coefficients (`timesteps.LinearStep`), not in what is computed.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from diffbir_jax.sampling.loop import Sampler
from diffbir_jax.sampling.timesteps import Level, LinearStep


def linear_step(
    denoise: Callable[[Array, Level], Array], carry: tuple[Array, ...], step: LinearStep, noise: Array
) -> tuple[Array, ...]:
    """One step; `LinearStep` has the equation.

    Args:
        denoise: (z_t, level) -> x0.
        carry: (z_t, earlier x0s, the latest first), float32 (B, h, w, c) each.
        step: scalars of this step.
        noise: standard normal, shape of z_t.

    Returns:
        (z_prev, x0s): as many predictions as the carry had.
    """
    x, *earlier = carry
    x0 = denoise(x, step.level)
    mean = x0 * step.coef_x0 + x * step.coef_x
    for coefficient, prediction in zip(step.earlier, earlier, strict=True):
        mean += coefficient * prediction
    return (mean + noise * jnp.sqrt(step.variance), *[x0, *earlier][: len(earlier)])


def linear_sampler(lookback: int) -> Sampler:
    """Sampler of tables with `lookback` coefficients of earlier predictions; keep it, a new one compiles anew."""
    return Sampler(init=lambda x: (x, *[jnp.zeros_like(x)] * lookback), step=linear_step)


FIRST_ORDER, THIRD_ORDER = linear_sampler(0), linear_sampler(2)
