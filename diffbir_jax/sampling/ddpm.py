"""Samplers on the chain that the network was trained with: spaced DDPM, and DDIM with any share of fresh noise."""

from typing import Unpack

import numpy as np

from diffbir_jax.sampling.tables import LinearStep, Scales, make_level
from diffbir_jax.sampling.timesteps import (
    Span,
    Stops,
    covered_timesteps,
    make_stops,
    schedule_sigmas,
    space_timesteps,
    stops_at,
)


def spaced_steps(span: Span, **scales: Unpack[Scales]) -> LinearStep:
    """Table of spaced DDPM (Ho et al. 2020, equation 7, on the timesteps of Nichol & Dhariwal 2021).

    Args:
        span: what to sample.
        scales: see `Scales`.

    Returns:
        LinearStep of (num_steps,) arrays.

    Raises:
        ValueError: more steps than timesteps, start_timestep outside the schedule, or an unknown spacing.
    """
    return _chain(make_stops(span, _both_ends), 1.0, **scales)


def ddim_steps(span: Span, *, eta: float = 0.0, **scales: Unpack[Scales]) -> LinearStep:
    """Table of DDIM (Song et al. 2021, equation 12), solved for the coefficients of z_t and x0.

    With eta 1 these are the coefficients of spaced DDPM on the same timesteps. From pure noise the uniform spacing is
    the reference's: `ddim_timesteps`, which ends at timestep 0 with a little noise left (3 %). The reference has no
    later start, and its single step would be the cleanest timestep. In both cases the timesteps here are those of
    `space_timesteps`, down to x0.

    Args:
        span: the part of the schedule to sample. With uniform spacing from pure noise there can be more rows than
            num_steps.
        eta: share of fresh noise: 0 is deterministic, 1 is DDPM.
        scales: see `Scales`.

    Returns:
        LinearStep of arrays of one length, num_steps in most cases.

    Raises:
        ValueError: as in `spaced_steps`.
    """
    return _chain(make_stops(span, _ddim_uniform), eta, **scales)


def ddim_timesteps(num_timesteps: int, num_steps: int) -> np.ndarray:
    """Timesteps 1, 1 + stride, 1 + 2 stride, ... with stride = num_timesteps // num_steps, as in the reference.

    If num_steps does not divide num_timesteps, there are up to twice as many as requested. The reference fails if the
    stride leads past the end; here the last timestep takes that place.

    Returns:
        (N,) int32, falling to 1.
    """
    # Shifted by 1, as in the DDIM authors' code: timestep 0 is where sampling ends.
    timesteps = np.arange(0, num_timesteps, num_timesteps // num_steps) + 1
    return np.unique(np.minimum(timesteps, num_timesteps - 1)).astype(np.int32)[::-1]


def _both_ends(span: Span) -> Stops:
    return stops_at(span.schedule, space_timesteps(covered_timesteps(span), span.num_steps))


def _ddim_uniform(span: Span) -> Stops:
    total = span.schedule.num_timesteps
    if covered_timesteps(span) < total or span.num_steps == 1:
        return _both_ends(span)
    return stops_at(
        span.schedule, ddim_timesteps(total, span.num_steps), float(schedule_sigmas(span.schedule)[0])
    )


def _chain(stops: Stops, eta: float, **scales: Unpack[Scales]) -> LinearStep:
    """Draws from q(z_next | z_t, x0) with the variance scaled by eta^2 (Song et al. 2021)."""
    alphas_cumprod = 1 / (1 + stops.sigmas**2)
    here, after = alphas_cumprod[:-1], alphas_cumprod[1:]
    # The variance of the posterior q(z_next | z_t, x0), times eta^2 (Song et al. 2021, equation 16).
    variance = eta**2 * (1 - after) / (1 - here) * (1 - here / after)
    # The remaining noise comes from z_t, so that z_next has exactly the next level's noise.
    coef_x = np.sqrt(1 - after - variance) / np.sqrt(1 - here)
    coef_x0 = np.sqrt(after) - coef_x * np.sqrt(here)
    return LinearStep(
        make_level(stops.timesteps[:-1], np.sqrt(here), coef_x0, **scales),
        coef_x0.astype(np.float32),
        coef_x.astype(np.float32),
        variance.astype(np.float32),
    )
