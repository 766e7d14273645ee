"""DDIM: from no fresh noise at all to DDPM's."""

from typing import Unpack

import numpy as np

from diffbir_jax.diffusion.schedule import Schedule
from diffbir_jax.sampling.timesteps import (
    LinearStep,
    Scales,
    covered_timesteps,
    make_level,
    space_timesteps,
)


def ddim_timesteps(num_timesteps: int, num_steps: int) -> np.ndarray:
    """Timesteps 1, 1 + stride, 1 + 2 stride, ... with stride = num_timesteps // num_steps, as in the reference.

    That is up to twice as many as asked for where the stride does not come out even. The reference fails where the
    stride leads over the end; here the last timestep takes that place.

    Returns:
        (N,) int32, falling to 1.
    """
    timesteps = np.arange(0, num_timesteps, num_timesteps // num_steps) + 1
    return np.unique(np.minimum(timesteps, num_timesteps - 1)).astype(np.int32)[::-1]


def ddim_steps(
    schedule: Schedule,
    num_steps: int,
    *,
    start_timestep: int | None = None,
    eta: float = 0.0,
    **scales: Unpack[Scales],
) -> LinearStep:
    """Table of DDIM (Song et al. 2021, equation 12), x0 and the noise implied by it collected into z_t and x0.

    With eta 1 these are the coefficients of spaced DDPM on the same timesteps. From pure noise sampling visits
    `ddim_timesteps` and ends at timestep 0, as in the reference, with a little noise left (3 %). The reference knows
    no start further down, and its only step would be the cleanest one: both go by `space_timesteps` here, to x0.

    Args:
        schedule: the noise schedule.
        num_steps: sampling steps asked for, 1 to the number of training timesteps.
        start_timestep: as in `spaced_steps`.
        eta: share of fresh noise: 0 is deterministic, 1 is DDPM.
        scales: see `Scales`.

    Returns:
        LinearStep of arrays of one length, num_steps in most cases.

    Raises:
        ValueError: more steps than timesteps, or start_timestep outside of the schedule.
    """
    start = covered_timesteps(schedule, num_steps, start_timestep)
    as_reference = start == schedule.num_timesteps and num_steps > 1
    timesteps = (ddim_timesteps if as_reference else space_timesteps)(start, num_steps)
    alphas_cumprod = schedule.alphas_cumprod[timesteps]
    previous = np.append(alphas_cumprod[1:], schedule.alphas_cumprod[0] if as_reference else 1.0)
    variance = eta**2 * (1 - previous) / (1 - alphas_cumprod) * (1 - alphas_cumprod / previous)
    coef_x = np.sqrt((1 - previous - variance) / (1 - alphas_cumprod))
    coef_x0 = np.sqrt(previous) - coef_x * np.sqrt(alphas_cumprod)
    return LinearStep(
        level=make_level(timesteps, np.sqrt(alphas_cumprod), coef_x0, **scales),
        coef_x0=coef_x0.astype(np.float32),
        coef_x=coef_x.astype(np.float32),
        variance=variance.astype(np.float32),
    )
