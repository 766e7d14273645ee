"""Methods that call the network twice per step: a look-ahead, then the step itself from its start."""

from typing import NamedTuple, Unpack

import numpy as np

from diffbir_jax.sampling.tables import LinearStep, Scales, SigmaRows, sigma_table, signal_of
from diffbir_jax.sampling.timesteps import Stops


class PairSteps(NamedTuple):
    """Two calls per step in x = x0 + sigma * noise; (N - 1,) float64 each, for all steps but the last.

    x_mid = mid_x * x + (1 - mid_x) * x0 + mid_deviation * noise, then
    x_next = coef_x * x + (1 - coef_x) * x0_mid + coef_first * (x0 - x0_mid) + deviation * noise'.

    Attributes:
        mid: sigmas of the second call of the network, on x_mid.
        mid_x, coef_x, coef_first: the coefficients.
        mid_deviation, deviation: standard deviations of the noise.
    """

    mid: np.ndarray
    mid_x: np.ndarray
    coef_x: np.ndarray
    coef_first: np.ndarray | float = 0.0
    mid_deviation: np.ndarray | float = 0.0
    deviation: np.ndarray | float = 0.0


def pair_table(
    stops: Stops,
    here: np.ndarray,
    steps: PairSteps,
    *,
    s_noise: float,
    before: np.ndarray | None = None,
    **scales: Unpack[Scales],
) -> LinearStep:
    """The table, two rows per step. The last step, to sigma 0, is one row in any method: the predicted x0.

    Args:
        stops: start and end of each step, and the timestep of each sigma.
        here: (N,) sigmas of the first call of the network.
        steps: the coefficients.
        s_noise: factor on all noise except the start's.
        before: (N,) sigmas before the churn that leads to `here`; None without churn.
        scales: see `Scales`.

    Returns:
        LinearStep of (2 N - 1,) arrays that looks back one row.
    """
    after = stops.sigmas[1:-1]
    # The first row moves to x_mid; the second starts from x again, by looking back at its latents.
    rows = SigmaRows(
        here=_alternate(here, steps.mid),
        after=_alternate(np.append(steps.mid, 0.0), after),
        coef_x=_alternate(np.append(steps.mid_x, 0.0), 0.0),
        deviation=_alternate(np.append(steps.mid_deviation + 0 * after, 0.0), steps.deviation),
        earlier_x0=(_alternate(0 * here, steps.coef_first),),
        earlier_x=(_alternate(0 * here, steps.coef_x),),
        before=None if before is None else _alternate(before, steps.mid),
    )
    # A step is guided once, at its end: the correction would multiply guidance of the look-ahead.
    reach = _alternate(np.append(np.full_like(after, np.inf), 1.0), signal_of(after) * (1 - steps.coef_x))
    return sigma_table(rows, stops.timestep_of(rows.here), s_noise=s_noise, reach=reach, **scales)


def _alternate(first: np.ndarray, second: np.ndarray | float) -> np.ndarray:
    """(N,) and (N - 1,), or a number, -> (2 N - 1,): alternating."""
    return np.insert(first, np.arange(1, len(first)), second)
