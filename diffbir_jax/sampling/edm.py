"""Samplers of the probability-flow ODE dx/dsigma = (x - x0) / sigma, x = x0 + sigma * noise (Karras et al. 2022).

All use `timesteps.edm_stops`, whose last step leads to sigma 0, that is, to the predicted x0.
"""

from typing import Unpack

import numpy as np

from diffbir_jax.sampling.pairs import PairSteps, pair_table
from diffbir_jax.sampling.tables import LinearStep, Scales, SigmaRows, sigma_table
from diffbir_jax.sampling.timesteps import Span, edm_stops

# Earlier predictions that the linear multistep method uses, for any order.
LMS_LOOKBACK = 3


def euler_steps(
    span: Span,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = np.inf,
    s_noise: float = 1.0,
    **scales: Unpack[Scales],
) -> LinearStep:
    """Table of Euler's method with churn (Karras et al. 2022, algorithm 2 without its second-order correction).

    Args:
        span: what to sample.
        s_churn: noise to add over the whole run. Before each step, sigma rises by a share of up to s_churn / num_steps
            (at most 41 %).
        s_tmin, s_tmax: range of sigmas in which noise is added.
        s_noise: factor on that noise.
        scales: see `Scales`.

    Returns:
        LinearStep of (num_steps,) arrays.

    Raises:
        ValueError: see `make_stops`.
    """
    stops = edm_stops(span)
    before, after = stops.sigmas[:-1], stops.sigmas[1:]
    # Churn raises sigma first; the step then starts from the raised level.
    here = churned(before, s_churn, s_tmin, s_tmax)
    rows = SigmaRows(here, after, after / here, 0 * here, before=before)
    return sigma_table(rows, stops.timestep_of(here), s_noise=s_noise, **scales)


def euler_ancestral_steps(
    span: Span, *, eta: float = 1.0, s_noise: float = 1.0, **scales: Unpack[Scales]
) -> LinearStep:
    """Table of Euler's method with ancestral noise: a step goes below its end, and noise leads back up to it.

    Args:
        span: what to sample.
        eta: share of fresh noise, see `ancestral`; 0 is Euler's method.
        s_noise: factor on the noise.
        scales: see `Scales`.

    Returns, raises: as in `euler_steps`.
    """
    stops = edm_stops(span)
    here, after = stops.sigmas[:-1], stops.sigmas[1:]
    down, up = ancestral(here, after, eta)
    rows = SigmaRows(here, after, down / here, up)
    return sigma_table(rows, stops.timesteps[:-1], s_noise=s_noise, **scales)


def heun_steps(
    span: Span,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = np.inf,
    s_noise: float = 1.0,
    **scales: Unpack[Scales],
) -> LinearStep:
    """Table of Heun's method with churn (Karras et al. 2022, algorithm 2): the mean of the slopes at both ends.

    Arguments and errors as in `euler_steps`. Returns (2 num_steps - 1,) arrays: the last step is Euler's.
    """
    stops = edm_stops(span)
    here = churned(stops.sigmas[:-1], s_churn, s_tmin, s_tmax)
    after = stops.sigmas[1:-1]
    ratio = after / here[:-1]
    # The look-ahead is Euler's; its slope there is (x_mid - x0_mid) / after.
    steps = PairSteps(after, ratio, ratio, coef_first=(1 - ratio) * (1 - 0.5 / ratio))
    return pair_table(stops, here, steps, s_noise=s_noise, before=stops.sigmas[:-1], **scales)


def dpm_2_steps(
    span: Span,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = np.inf,
    s_noise: float = 1.0,
    **scales: Unpack[Scales],
) -> LinearStep:
    """Table of a midpoint method after DPM-Solver-2 (Lu et al. 2022) with churn: the slope half-way in log sigma.

    Arguments and errors as in `euler_steps`. Returns (2 num_steps - 1,) arrays: the last step is Euler's.
    """
    stops = edm_stops(span)
    here = churned(stops.sigmas[:-1], s_churn, s_tmin, s_tmax)
    steps = _midpoint(here[:-1], stops.sigmas[1:-1])
    return pair_table(stops, here, steps, s_noise=s_noise, before=stops.sigmas[:-1], **scales)


def dpm_2_ancestral_steps(
    span: Span, *, eta: float = 1.0, s_noise: float = 1.0, **scales: Unpack[Scales]
) -> LinearStep:
    """Table of the midpoint method of `dpm_2_steps` with ancestral noise instead of churn.

    Arguments and errors as in `euler_ancestral_steps`. Returns (2 num_steps - 1,) arrays: the last step is Euler's.
    """
    stops = edm_stops(span)
    here, after = stops.sigmas[:-2], stops.sigmas[1:-1]
    down, up = ancestral(here, after, eta)
    steps = _midpoint(here, down)._replace(deviation=up)
    return pair_table(stops, stops.sigmas[:-1], steps, s_noise=s_noise, **scales)


def _midpoint(here: np.ndarray, down: np.ndarray) -> PairSteps:
    """Steps of the midpoint method from `here` to `down`."""
    mid = np.sqrt(here * down)
    return PairSteps(mid, mid / here, down / here, coef_first=(here - down) * (1 / here - 1 / mid))


def lms_steps(span: Span, *, order: int = 4, **scales: Unpack[Scales]) -> LinearStep:
    """Table of the linear multistep method (Adams & Bashforth): the slope as a polynomial through the latest ones.

    Args:
        span: what to sample.
        order: number of slopes, 1 (Euler's method) to 4; the first steps have fewer.
        scales: see `Scales`.

    Returns, raises: as in `euler_steps`.
    """
    stops = edm_stops(span)
    sigmas = stops.sigmas
    weights = np.stack([multistep_weights(sigmas, i, order) for i in range(span.num_steps)], axis=1)
    # A slope is (x - x0) / sigma, at the sigmas of this row and of earlier rows.
    slopes = [weight / np.roll(sigmas[:-1], k) for k, weight in enumerate(weights)]
    latest, earlier = slopes[0], tuple(slopes[1:])
    rows = SigmaRows(
        sigmas[:-1], sigmas[1:], 1 + latest, 0 * latest, tuple(-slope for slope in earlier), earlier
    )
    return sigma_table(rows, stops.timesteps[:-1], **scales)


def churned(sigmas: np.ndarray, s_churn: float, s_tmin: float, s_tmax: float) -> np.ndarray:
    """Sigmas (N,) after the noise that Karras et al. 2022, algorithm 2, add before each of N steps."""
    # The bound keeps the new noise from exceeding the noise that is already there.
    gamma = min(s_churn / len(sigmas), np.sqrt(2) - 1)
    return sigmas * (1 + gamma * ((s_tmin <= sigmas) & (sigmas <= s_tmax)))


def ancestral(here: np.ndarray, after: np.ndarray, eta: float) -> tuple[np.ndarray, np.ndarray]:
    """Sigma at the low point of an ancestral step, and the deviation of the noise that leads up to the step's end.

    With eta 1 noise and slope contribute as in DDPM; with eta 0 there is no noise.
    """
    # Limited by the target's sigma, so that the root below stays real for any eta.
    up = np.minimum(after, eta * after * np.sqrt(1 - (after / here) ** 2))
    return np.sqrt(after**2 - up**2), up


def multistep_weights(sigmas: np.ndarray, i: int, order: int) -> np.ndarray:
    """Integrals from sigmas[i] to sigmas[i + 1] of the Lagrange polynomials of the latest slopes, (1 + lookback,)."""
    count = min(i + 1, order)
    known = sigmas[i - np.arange(count)]
    # Two nodes are exact up to degree 3.
    nodes, weights = np.polynomial.legendre.leggauss(2)
    half = (sigmas[i + 1] - sigmas[i]) / 2
    at = sigmas[i] + half * (nodes + 1)
    basis = [
        np.prod([(at - other) / (one - other) for other in np.delete(known, j)] or [np.ones(2)], axis=0)
        for j, one in enumerate(known)
    ]
    return np.pad(half * np.array(basis) @ weights, (0, 1 + LMS_LOOKBACK - count))
