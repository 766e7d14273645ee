"""One evaluation of a diffusion model in place of sampling: what published one-step restorers compute around it."""

from typing import Unpack

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffbir_jax.diffusion.schedule import Schedule
from diffbir_jax.sampling.tables import LinearStep, Scales, make_level


def draw_posterior(mean: ArrayLike, logvar: ArrayLike, noise: ArrayLike) -> Array:
    """A draw from the autoencoder's posterior, not scaled; arrays of one shape, `noise` standard normal."""
    return jnp.asarray(mean) + jnp.exp(0.5 * jnp.asarray(logvar)) * jnp.asarray(noise)


def blended_prediction(
    pixel: ArrayLike, both: ArrayLike, strength: Array | float, semantic: Array | float
) -> Array:
    """PiSA-SR's prediction (Sun et al. 2025): l_pix e_pix + l_sem (e_both - e_pix).

    Args:
        pixel: output of the network with the pixel LoRA.
        both: output of the network with both LoRAs.
        strength, semantic: the two sliders, scalars or (B, 1, 1, 1); 1 and 1 give `both`.
    """
    return strength * jnp.asarray(pixel) + semantic * (jnp.asarray(both) - jnp.asarray(pixel))


def one_step(
    schedule: Schedule, timestep: int, coefficient: int | None, **scales: Unpack[Scales]
) -> LinearStep:
    """The table of one evaluation that leads to x0.

    Args:
        schedule: the noise schedule.
        timestep: what the network is told.
        coefficient: the timestep whose signal and noise turn the prediction into x0; None: x0 = z - prediction.
        scales: see `Scales`.
    """
    here = np.array([timestep])
    signal = np.ones(1) if coefficient is None else np.sqrt(schedule.alphas_cumprod[[coefficient]])
    level = make_level(here, signal, np.ones(1), **scales)
    if coefficient is None:
        level = level._replace(noise=np.ones(1, np.float32))
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    return LinearStep(level, one, zero, zero)
