"""The samplers by name."""

from collections.abc import Callable
from typing import Any, NamedTuple, Unpack

from diffbir_jax.diffusion.schedule import Schedule
from diffbir_jax.sampling.ddim import ddim_steps
from diffbir_jax.sampling.dpm_solver import dpmpp_3m_sde_steps
from diffbir_jax.sampling.linear import FIRST_ORDER, THIRD_ORDER
from diffbir_jax.sampling.loop import Sampler
from diffbir_jax.sampling.timesteps import Scales, spaced_steps


class Entry(NamedTuple):
    """A sampler and its table.

    Attributes:
        sampler: what steps.
        steps: (schedule, num_steps, *, start_timestep, eta if it has one, scales as in `spaced_steps`) -> table.
        eta: its own share of fresh noise; None where it has no such choice.
    """

    sampler: Sampler
    steps: Callable[..., Any]
    eta: float | None = None


SAMPLERS: dict[str, Entry] = {
    "spaced": Entry(FIRST_ORDER, spaced_steps),
    "ddim": Entry(FIRST_ORDER, ddim_steps, eta=0.0),
    "edm_dpm++_3m_sde": Entry(THIRD_ORDER, dpmpp_3m_sde_steps, eta=1.0),
}


def find_sampler(name: str, eta: float | None = None) -> Entry:
    """Look up a sampler, with `eta` instead of its own unless None.

    Raises:
        ValueError: unknown name, an eta outside of [0, 1], or for a sampler that has none.
    """
    if name not in SAMPLERS:
        raise ValueError(f"sampler is {name!r}; use one of {tuple(SAMPLERS)}")
    entry = SAMPLERS[name]
    if eta is None:
        return entry
    if entry.eta is None:
        having = tuple(name for name, entry in SAMPLERS.items() if entry.eta is not None)
        raise ValueError(f"eta is {eta}, but sampler {name!r} has none; leave it out, or use one of {having}")
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta is {eta}; allowed are numbers in [0, 1]")
    return entry._replace(eta=eta)


def make_sampler(
    name: str,
    schedule: Schedule,
    num_steps: int,
    *,
    start_timestep: int | None = None,
    eta: float | None = None,
    **scales: Unpack[Scales],
) -> tuple[Sampler, Any]:
    """Build what `sample` needs to know of a sampler.

    Args:
        name: one of `SAMPLERS`.
        schedule: the noise schedule the network was trained with.
        num_steps: sampling steps asked for, 1 to the number of timesteps; ddim can take more, see `ddim_timesteps`,
            and `len(steps.level.timestep)` has the number.
        start_timestep: sample only the first `start_timestep` training timesteps, for a start from a latent that was
            noised to the timestep `steps.level.timestep[0]`. Default: all, from pure noise.
        eta: share of fresh noise, 0 to 1; None is the sampler's own.
        scales: see `Scales`.

    Returns:
        (sampler, steps), to be passed to `loop.sample`. Length and structure of the table depend on the name and on
        num_steps, and for ddim on whether there is a start_timestep; all else is values.

    Raises:
        ValueError: unknown name, or `eta`, `num_steps` or `start_timestep` out of range.
    """
    entry = find_sampler(name, eta)
    own = {} if entry.eta is None else {"eta": entry.eta}
    return entry.sampler, entry.steps(schedule, num_steps, start_timestep=start_timestep, **own, **scales)
