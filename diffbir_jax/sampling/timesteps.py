"""The points on the noise schedule that a sampler visits, from the noisiest to the cleanest; float64 on the host."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np

from diffbir_jax.console.errors import UserError
from diffbir_jax.diffusion.schedule import Schedule

Spacing = Literal["uniform", "trailing", "karras", "exponential"]
# Noise level of pure noise for methods that divide by the signal, as in the reference.
MAX_SIGMA = 1e4
# Karras et al. 2022, table 1: the first level of sampling (if the schedule goes beyond), and the exponent.
KARRAS_SIGMA, KARRAS_RHO = 80.0, 7.0


class Span(NamedTuple):
    """The part of a schedule to sample, and the number of steps.

    Attributes:
        schedule: the noise schedule that the network was trained with.
        num_steps: sampling steps, 1 to the number of timesteps covered.
        start_timestep: cover only the first `start_timestep` training timesteps, to start from a latent that was noised
            to timestep start_timestep - 1. None: all, from pure noise.
        spacing: how the steps are spread. "uniform": evenly over the timesteps, in each sampler's own way (the
            reference's); "trailing": evenly, and always from the very last timestep (Lin et al. 2023), better for few
            steps; "karras": sigma^(1/7) evenly (Karras et al. 2022), more steps at low noise; "exponential": log sigma
            evenly.
    """

    schedule: Schedule
    num_steps: int
    start_timestep: int | None = None
    spacing: Spacing = "uniform"


@dataclass(frozen=True, eq=False)
class Stops:
    """The points that a sampler visits, and its end.

    Attributes:
        timesteps: (N + 1,) float64, the timesteps given to the network; the last is never used.
        sigmas: (N + 1,) float64, falling, noise over signal. Sampling ends at the last one: 0 is x0.
        timestep_of: sigmas between the stops (n,) -> their timesteps (n,).
    """

    timesteps: np.ndarray
    sigmas: np.ndarray
    timestep_of: Callable[[np.ndarray], np.ndarray]


def make_stops(span: Span, uniform: Callable[[Span], Stops]) -> Stops:
    """The stops of a span; `uniform` makes those of the sampler's own spacing.

    Raises:
        ValueError: unknown spacing, or start_timestep or num_steps out of range.
    """
    if span.spacing not in get_args(Spacing):
        raise UserError(f"spacing is {span.spacing!r}; use one of {get_args(Spacing)}")
    # Called for its checks.
    covered_timesteps(span)
    return {
        "uniform": uniform,
        "trailing": _trailing,
        "karras": lambda span: _ramp(
            span, lambda sigma: sigma ** (1 / KARRAS_RHO), lambda root: root**KARRAS_RHO
        ),
        "exponential": lambda span: _ramp(span, np.log, np.exp),
    }[span.spacing](span)


def covered_timesteps(span: Span) -> int:
    """Number of the schedule's timesteps that sampling covers, the cleanest ones; by default all.

    Raises:
        ValueError: start_timestep is outside the schedule, or there are more steps than timesteps.
    """
    total = span.schedule.num_timesteps
    start = total if span.start_timestep is None else span.start_timestep
    if not 1 <= start <= total:
        raise UserError(f"start_timestep is {start}; allowed are 1 to {total}")
    if not 1 <= span.num_steps <= start:
        raise UserError(f"{span.num_steps} sampling steps given; allowed are 1 to {start}")
    return start


def stops_at(schedule: Schedule, timesteps: np.ndarray, end: float = 0.0) -> Stops:
    """Stops at training timesteps (N,), and an end at sigma `end`."""
    sigmas = schedule_sigmas(schedule)[timesteps]
    return Stops(
        np.append(timesteps, 0.0), np.append(sigmas, end), lambda s: interpolated_timestep(schedule, s)
    )


def schedule_sigmas(schedule: Schedule) -> np.ndarray:
    """Noise over signal at every timestep, (T,) rising; infinite at zero signal."""
    with np.errstate(divide="ignore"):
        return np.sqrt((1 - schedule.alphas_cumprod) / schedule.alphas_cumprod)


def interpolated_timestep(schedule: Schedule, sigmas: np.ndarray) -> np.ndarray:
    """Timesteps, with fractions, at which the schedule has these sigmas; the first or last beyond its range."""
    # np.interp cannot use an infinite point.
    finite = np.minimum(schedule_sigmas(schedule), MAX_SIGMA)
    return np.interp(np.log(sigmas), np.log(finite), np.arange(schedule.num_timesteps))


def space_timesteps(num_timesteps: int, num_steps: int) -> np.ndarray:
    """Evenly spaced timesteps that include the first and the last (Nichol & Dhariwal 2021).

    A single step visits the last timestep, where sampling starts.

    Args:
        num_timesteps: timesteps to choose from, 0 to num_timesteps - 1.
        num_steps: number of timesteps to choose, 1 to num_timesteps.

    Returns:
        (num_steps,) int32, falling from num_timesteps - 1 to 0.
    """
    if num_steps == 1:
        return np.array([num_timesteps - 1], np.int32)
    # Repeated addition of the stride rounds halves as in the training of published models; multiplication would not.
    stride = (num_timesteps - 1) / (num_steps - 1)
    return np.rint(np.cumsum([0.0] + [stride] * (num_steps - 1))).astype(np.int32)[::-1]


def _edm_uniform(span: Span) -> Stops:
    start = covered_timesteps(span)
    timesteps = np.append(np.linspace(start - 1, 0, span.num_steps, endpoint=False).astype(np.int32), 0)
    sigmas = np.append(schedule_sigmas(span.schedule)[timesteps[:-1]], 0.0)
    if start == span.schedule.num_timesteps:
        # As in the reference, which sets the last alphas_cumprod to 1e-8.
        sigmas[0] = np.sqrt((1 - 1e-8) / 1e-8)
    return Stops(timesteps, sigmas, lambda s: timesteps[np.abs(s[:, None] - sigmas[None]).argmin(axis=1)])


def edm_stops(span: Span, uniform: Callable[[Span], Stops] = _edm_uniform) -> Stops:
    """Stops of the samplers that work on x = x0 + sigma * noise (Karras et al. 2022).

    From pure noise the uniform spacing sets the first sigma to 1e4, about infinity, for every schedule, and a sigma
    between the stops has the timestep of the nearest stop. Both are as in the reference. The other spacings start where
    the schedule does and interpolate timesteps; "trailing" starts at 1e4 if there is no signal, the others at 80 at
    most.

    Args:
        span: the part of the schedule to sample.
        uniform: stops of the uniform spacing, if other than these.

    Raises:
        ValueError: see `make_stops`.
    """
    stops = make_stops(span, uniform)
    return Stops(stops.timesteps, np.minimum(stops.sigmas, MAX_SIGMA), stops.timestep_of)


def _trailing(span: Span) -> Stops:
    start = covered_timesteps(span)
    timesteps = np.rint(np.linspace(start, 0, span.num_steps, endpoint=False)).astype(np.int32) - 1
    return stops_at(span.schedule, timesteps)


def _ramp(
    span: Span, forward: Callable[[np.ndarray], np.ndarray], back: Callable[[np.ndarray], np.ndarray]
) -> Stops:
    """Stops at equal distances of forward(sigma), from the schedule's noise, but from 80 at most.

    Pure noise differs from sigma 80 by an eightieth of x0. From larger sigmas a step is so long that methods with
    slopes at its far end multiply their errors by thousands.
    """
    schedule, known = span.schedule, schedule_sigmas(span.schedule)
    first = min(known[covered_timesteps(span) - 1], KARRAS_SIGMA)
    high, low = forward(np.array([first, known[0]]))
    sigmas = back(np.linspace(high, low, span.num_steps))
    # The inverse function rounds; the start must match the latent's noise exactly.
    sigmas[0] = first
    timesteps = interpolated_timestep(schedule, sigmas)
    return Stops(
        np.append(timesteps, 0.0), np.append(sigmas, 0.0), lambda s: interpolated_timestep(schedule, s)
    )
