"""DPM-Solver++: exponential integrators on the predicted x0 (Lu et al. 2022)."""

from typing import Unpack

import numpy as np

from diffbir_jax.diffusion.schedule import Schedule
from diffbir_jax.sampling.timesteps import LinearStep, Scales, edm_schedule, make_level


def dpmpp_3m_sde_steps(
    schedule: Schedule,
    num_steps: int,
    *,
    start_timestep: int | None = None,
    eta: float = 1.0,
    **scales: Unpack[Scales],
) -> LinearStep:
    """Table of DPM-Solver++(3M) SDE: third order, from the last three predictions, with fresh noise.

    Published for x = x0 + sigma * noise (Karras et al. 2022). The latents here are z = x / sqrt(1 + sigma^2) all along,
    whose numbers stay near 1 and which the network sees as they are; a start from pure noise is the same z_T as
    elsewhere. The first two steps and the last know less and are of lower order.

    The published sampler takes its noise from one Brownian path, normalised on each step's interval. Increments of such
    a path over intervals that do not overlap are independent: standard normal noise for each step has the same law.

    Args:
        schedule: the noise schedule.
        num_steps: sampling steps, 1 to the number of training timesteps.
        start_timestep: as in `spaced_steps`.
        eta: share of fresh noise: 0 solves the ODE; 1 the SDE, to first order spaced DDPM.
        scales: see `Scales`.

    Returns:
        LinearStep of (num_steps,) arrays, two `earlier`.

    Raises:
        ValueError: more steps than timesteps, or start_timestep outside of the schedule.
    """
    timesteps, sigmas = edm_schedule(schedule, num_steps, start_timestep)
    signal = 1 / np.sqrt(1 + sigmas**2)
    # All but the last step, which goes to x0: there the log of the signal-to-noise ratio rises without end.
    h = np.diff(-np.log(sigmas[:-1]))
    decay = np.exp(-(1 + eta) * h)
    weights = _third_order(h, (1 + eta) * h) * signal[1:-1]
    coef_x0, *earlier = np.append(weights, [[1.0], [0.0], [0.0]], axis=1)
    return LinearStep(
        level=make_level(timesteps[:-1], signal[:-1], np.append((1 - decay) * signal[1:-1], 1.0), **scales),
        coef_x0=coef_x0.astype(np.float32),
        coef_x=np.append(decay * signal[1:-1] / signal[:-2], 0.0).astype(np.float32),
        variance=np.append(-np.expm1(-2 * eta * h) * (1 - signal[1:-1] ** 2), 0.0).astype(np.float32),
        earlier=tuple(weight.astype(np.float32) for weight in earlier),
    )


def _third_order(h: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Weights (3, n) of the last three predictions in x, the latest first.

    They are the integral of reach exp(-reach (1 - u)), u from 0 to 1 along the step, times the parabola through the
    predictions; its second difference counts half of that, as in the published code.

    Args:
        h: (n,) steps in log sigma.
        reach: (n,) the same, stretched by the fresh noise.
    """
    index = np.arange(len(h))
    # Steps before the first do not matter: their differences weigh nothing.
    back_1, back_2 = (np.where(index < k, 1.0, np.roll(h, k) / h) for k in (1, 2))
    phi_1 = -np.expm1(-reach)
    phi_2 = 1 - phi_1 / reach
    phi_3 = phi_2 / reach - 0.5
    first = np.where(index < 1, 0.0, phi_2) / back_1
    second = np.where(index < 2, 0.0, phi_2 * back_1 - phi_3) / (back_1 + back_2)
    near, far = second / back_1, second / back_2
    return np.stack([phi_1 + first + near, -first - near - far, far])
