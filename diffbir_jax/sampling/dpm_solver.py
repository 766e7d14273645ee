"""DPM-Solver++: exponential integrators on the predicted x0 (Lu et al. 2022), in log sigma.

Published for x = x0 + sigma * noise (Karras et al. 2022) or for z_t, which is equivalent. The published stochastic
solvers take their noise from one Brownian path, normalised on each step's interval. Increments of such a path over
disjoint intervals are independent, so standard normal noise for each step has the same distribution.
"""

from collections.abc import Callable
from typing import Unpack

import numpy as np

from diffbir_jax.sampling.edm import ancestral
from diffbir_jax.sampling.pairs import PairSteps, pair_table
from diffbir_jax.sampling.tables import LinearStep, Scales, SigmaRows, sigma_table
from diffbir_jax.sampling.timesteps import (
    Span,
    Stops,
    covered_timesteps,
    edm_stops,
    interpolated_timestep,
    schedule_sigmas,
    stops_at,
)

# (log sigma steps (n,), the same stretched by the fresh noise) -> weights (k, n) of the differences of the k earlier
# predictions to the latest one.
_Weights = Callable[[np.ndarray, np.ndarray], np.ndarray]
# The published solver does not use the schedule beyond this sigma, because its logarithm grows too fast there.
_LAST_SIGMA = np.exp(5.1)
# With fewer steps the published solver ends with a step of first order.
_FEW_STEPS = 10


def dpmpp_m2_steps(span: Span, **scales: Unpack[Scales]) -> LinearStep:
    """Table of the multistep DPM-Solver++ of second order as its authors publish it (Lu et al. 2022, algorithm 2).

    It is `dpmpp_2m_steps` on other stops. The uniform spacing gives evenly spread fractional timesteps down to timestep
    0, where the sampler ends with a little noise left (3 %), as in the reference.

    Args:
        span: what to sample.
        scales: see `Scales`.

    Returns:
        LinearStep of (num_steps,) arrays that looks back on one x0.

    Raises:
        ValueError: see `make_stops`.
    """
    return _multistep(
        edm_stops(span, _solver_uniform), 0.0, _second_order, last_first=span.num_steps < _FEW_STEPS, **scales
    )


def dpmpp_2m_steps(span: Span, **scales: Unpack[Scales]) -> LinearStep:
    """Table of DPM-Solver++(2M): second order, from the last two predictions. As `dpmpp_m2_steps`, but ends at x0."""
    return _multistep(edm_stops(span), 0.0, _second_order, **scales)


def dpmpp_2m_sde_steps(
    span: Span, *, eta: float = 1.0, s_noise: float = 1.0, **scales: Unpack[Scales]
) -> LinearStep:
    """Table of DPM-Solver++(2M) SDE, the midpoint variant: second order, from the last two predictions, with noise.

    Args:
        span: what to sample.
        eta: share of fresh noise: 0 solves the ODE, which is DPM-Solver++(2M); 1 the SDE, to first order spaced DDPM.
        s_noise: factor on the noise.
        scales: see `Scales`.

    Returns:
        LinearStep of (num_steps,) arrays that looks back on one x0.

    Raises:
        ValueError: see `make_stops`.
    """
    return _multistep(edm_stops(span), eta, _second_order, s_noise=s_noise, **scales)


def dpmpp_3m_sde_steps(
    span: Span, *, eta: float = 1.0, s_noise: float = 1.0, **scales: Unpack[Scales]
) -> LinearStep:
    """Table of DPM-Solver++(3M) SDE: third order, from the last three predictions, with fresh noise.

    The first two steps and the last have fewer predictions and are of lower order.

    Arguments and errors as in `dpmpp_2m_sde_steps`. Returns (num_steps,) arrays that look back on two x0s.
    """
    return _multistep(edm_stops(span), eta, _third_order, s_noise=s_noise, **scales)


def dpmpp_2s_ancestral_steps(
    span: Span, *, eta: float = 1.0, s_noise: float = 1.0, **scales: Unpack[Scales]
) -> LinearStep:
    """Table of DPM-Solver++(2S) with ancestral noise: the prediction half-way in log sigma serves the whole step.

    Args:
        span: what to sample.
        eta: share of fresh noise, see `edm.ancestral`.
        s_noise: factor on the noise.
        scales: see `Scales`.

    Returns:
        LinearStep of (2 num_steps - 1,) arrays, two calls of the network per step except the last.

    Raises:
        ValueError: see `make_stops`.
    """
    stops = edm_stops(span)
    here = stops.sigmas[:-2]
    # The last step, to sigma 0, is left out: its logarithm has no middle.
    down, up = ancestral(here, stops.sigmas[1:-1], eta)
    mid = np.sqrt(here * down)
    steps = PairSteps(mid, mid / here, down / here, deviation=up)
    return pair_table(stops, stops.sigmas[:-1], steps, s_noise=s_noise, **scales)


def dpmpp_sde_steps(
    span: Span, *, eta: float = 1.0, s_noise: float = 1.0, **scales: Unpack[Scales]
) -> LinearStep:
    """Table of the stochastic DPM-Solver++ of second order: `dpmpp_2s_ancestral_steps` with noise half-way, too.

    Arguments, returns and errors as in that function.
    """
    stops = edm_stops(span)
    here, after = stops.sigmas[:-2], stops.sigmas[1:-1]
    mid = np.sqrt(here * after)
    mid_down, mid_up = ancestral(here, mid, eta)
    down, up = ancestral(here, after, eta)
    steps = PairSteps(mid, mid_down / here, down / here, mid_deviation=mid_up, deviation=up)
    return pair_table(stops, stops.sigmas[:-1], steps, s_noise=s_noise, **scales)


def _solver_uniform(span: Span) -> Stops:
    """The published solver's stops: the logarithm of the signal is linear between training timesteps.

    It leaves out timesteps that are nearly pure noise. From pure noise it numbers the others as if they were all. With
    zero terminal SNR 986 of 1,000 are left, so the timestep given to the network is up to 1.4 % too high, as in the
    reference.
    """
    schedule, start = span.schedule, covered_timesteps(span)
    if start == 1:
        return stops_at(schedule, np.zeros(1, np.int32))
    known = schedule_sigmas(schedule)
    total = int(np.searchsorted(known, _LAST_SIGMA, side="right"))
    places = np.linspace(min(start, total) - 1, 0, span.num_steps + 1)
    signal = np.exp(np.interp(places, np.arange(total), -np.log1p(known[:total] ** 2) / 2))
    # Only from pure noise, as in the reference; later starts have true timesteps.
    stretch = schedule.num_timesteps / total if start == schedule.num_timesteps else 1.0
    return Stops(places * stretch, np.sqrt(1 / signal**2 - 1), lambda s: interpolated_timestep(schedule, s))


def _multistep(
    stops: Stops,
    eta: float,
    weights: _Weights,
    *,
    s_noise: float = 1.0,
    last_first: bool = False,
    **scales: Unpack[Scales],
) -> LinearStep:
    """Table of an exponential multistep method.

    Args:
        stops: start and end of each step.
        eta: share of fresh noise.
        weights: weights of the earlier predictions, in x.
        s_noise: factor on the noise.
        last_first: whether the last step uses only the latest prediction; a step to sigma 0 always does.
        scales: see `Scales`.
    """
    here, after = stops.sigmas[:-1], stops.sigmas[1:]
    # log(sigma) diverges at sigma = 0. A step to it ends at x0.
    ends = after == 0
    h = np.log(here / np.where(ends, here, after))
    reach = (1 + eta) * h
    earlier = weights(h, reach)
    # Extrapolation over an unbounded step in log sigma would be arbitrary.
    if last_first or ends[-1]:
        earlier[:, -1] = 0.0
    coef_x = np.where(ends, 0.0, np.exp(-reach))
    # expm1 keeps the digits of small steps, where exp(-x) - 1 would cancel.
    deviation = after * np.sqrt(-np.expm1(-2 * eta * h))
    rows = SigmaRows(here, after, coef_x, deviation, tuple(earlier))
    return sigma_table(rows, stops.timesteps[:-1], s_noise=s_noise, **scales)


def _second_order(h: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Weights (1, n): of the line through the last two predictions, at the middle of the step."""
    return -np.append(0.0, -np.expm1(-reach[1:]) / 2 * h[1:] / h[:-1])[None]


def _third_order(h: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Weights (2, n) of the two predictions before the latest.

    They are the integral of reach exp(-reach (1 - u)), u from 0 to 1 along the step, times the parabola through the
    predictions. Its second difference counts half of the parabola's, as in the published code.

    Args:
        h: (n,) steps in log sigma.
        reach: (n,) the same, stretched by the fresh noise.
    """
    index = np.arange(len(h))
    # Steps before the first do not matter: their differences have weight 0. Neither does a step to sigma 0, with h = 0.
    h, reach = (np.where(length > 0, length, 1.0) for length in (h, reach))
    back_1, back_2 = (np.where(index < k, 1.0, np.roll(h, k) / h) for k in (1, 2))
    phi_1 = -np.expm1(-reach)
    phi_2 = 1 - phi_1 / reach
    phi_3 = phi_2 / reach - 0.5
    first = np.where(index < 1, 0.0, phi_2) / back_1
    second = np.where(index < 2, 0.0, phi_2 * back_1 - phi_3) / (back_1 + back_2)
    near, far = second / back_1, second / back_2
    return np.stack([-first - near - far, far])
