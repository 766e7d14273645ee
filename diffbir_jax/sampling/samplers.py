"""The samplers by name."""

import inspect
from collections.abc import Callable, Mapping
from typing import Unpack

import numpy as np

from diffbir_jax.console.errors import UserError
from diffbir_jax.sampling.ddpm import ddim_steps, spaced_steps
from diffbir_jax.sampling.dpm_solver import (
    dpmpp_2m_sde_steps,
    dpmpp_2m_steps,
    dpmpp_2s_ancestral_steps,
    dpmpp_3m_sde_steps,
    dpmpp_m2_steps,
    dpmpp_sde_steps,
)
from diffbir_jax.sampling.edm import (
    LMS_LOOKBACK,
    dpm_2_ancestral_steps,
    dpm_2_steps,
    euler_ancestral_steps,
    euler_steps,
    heun_steps,
    lms_steps,
)
from diffbir_jax.sampling.tables import LinearStep, Scales
from diffbir_jax.sampling.timesteps import Span

# (span, the sampler's own settings, scales) -> table.
SAMPLERS: dict[str, Callable[..., LinearStep]] = {
    "spaced": spaced_steps,
    "ddim": ddim_steps,
    "dpm++_m2": dpmpp_m2_steps,
    "edm_euler": euler_steps,
    "edm_euler_a": euler_ancestral_steps,
    "edm_heun": heun_steps,
    "edm_dpm_2": dpm_2_steps,
    "edm_dpm_2_a": dpm_2_ancestral_steps,
    "edm_lms": lms_steps,
    "edm_dpm++_2s_a": dpmpp_2s_ancestral_steps,
    "edm_dpm++_sde": dpmpp_sde_steps,
    "edm_dpm++_2m": dpmpp_2m_steps,
    "edm_dpm++_2m_sde": dpmpp_2m_sde_steps,
    "edm_dpm++_3m_sde": dpmpp_3m_sde_steps,
}
# Settings that some samplers have, with the allowed values.
SETTINGS = {
    "eta": (0.0, 1.0),
    "s_churn": (0.0, np.inf),
    "s_tmin": (0.0, np.inf),
    "s_tmax": (0.0, np.inf),
    "s_noise": (0.0, np.inf),
    "order": (1, 1 + LMS_LOOKBACK),
}


def settings_of(name: str) -> dict[str, float]:
    """Return the settings of a sampler and their defaults.

    Raises:
        ValueError: there is no sampler with that name.
    """
    if name not in SAMPLERS:
        raise UserError(f"sampler is {name!r}; use one of {tuple(SAMPLERS)}")
    # The function's own signature is the table of its settings, so the two cannot disagree.
    parameters = inspect.signature(SAMPLERS[name]).parameters
    return {key: parameters[key].default for key in SETTINGS if key in parameters}


def check_settings(name: str, settings: Mapping[str, float]) -> None:
    """Raise ValueError unless the sampler exists, has these settings and allows their values."""
    own = settings_of(name)
    for key, value in settings.items():
        if key not in own:
            having = tuple(other for other in SAMPLERS if key in settings_of(other))
            raise UserError(
                f"{key} is {value}, but sampler {name!r} has none; leave it out, or use one of {having}"
            )
        low, high = SETTINGS[key]
        if not low <= value <= high:
            raise UserError(f"{key} is {value}; allowed are numbers in [{low:g}, {high:g}]")


def make_sampler(
    name: str, span: Span, settings: Mapping[str, float] | None = None, **scales: Unpack[Scales]
) -> LinearStep:
    """Build the table of a sampler for `loop.sample`.

    Args:
        name: one of `SAMPLERS`.
        span: the part of the schedule to sample, and the number of steps.
        settings: changes to `settings_of(name)`.
        scales: see `Scales`.

    Returns:
        the table. Its length and structure depend on the name and on num_steps, and for ddim on whether there is a
        start_timestep; everything else is values.

    Raises:
        ValueError: unknown name, spacing or setting, or a value out of range.
    """
    check_settings(name, settings or {})
    return SAMPLERS[name](span, **(settings or {}), **scales)
