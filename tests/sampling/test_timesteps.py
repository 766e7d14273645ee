"""Step tables against the reference's, and what the reference cannot do: one step, intermediate starts."""

from pathlib import Path
from typing import get_args

import jax
import numpy as np
import pytest

from diffbir_jax.diffusion.schedule import make_schedule
from diffbir_jax.sampling.ddpm import spaced_steps
from diffbir_jax.sampling.samplers import SAMPLERS, make_sampler
from diffbir_jax.sampling.tables import cfg_scales
from diffbir_jax.sampling.timesteps import (
    Spacing,
    Span,
    edm_stops,
    interpolated_timestep,
    schedule_sigmas,
    space_timesteps,
)

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "samplers.npz")
SCHEDULES = {
    "eps": make_schedule(),
    "v": make_schedule(zero_terminal_snr=True, parameterization="v"),
}


def counts(name: str) -> list[tuple[str, int]]:
    keys = (key.replace("|", " ").split() for key in GOLDEN.files if f"|{name}|" in key)
    return [(param, int(count)) for param, _, count in keys]


@pytest.mark.parametrize("param, num_steps", counts("spaced_timesteps"))
def test_spaced(param, num_steps):
    steps = spaced_steps(Span(SCHEDULES[param], num_steps))
    np.testing.assert_array_equal(steps.level.timestep[::-1], GOLDEN[f"{param}|spaced_timesteps|{num_steps}"])
    for name, table in [
        ("posterior_variance", steps.variance), ("coef1", steps.coef_x0), ("coef2", steps.coef_x)
    ]:  # fmt: skip
        golden = GOLDEN[f"{param}|spaced_{name}|{num_steps}"]
        np.testing.assert_allclose(table[::-1], golden, rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("param, num_steps", counts("edm_sigmas"))
def test_edm(param, num_steps):
    stops = edm_stops(Span(SCHEDULES[param], num_steps))
    np.testing.assert_array_equal(stops.timesteps, GOLDEN[f"{param}|edm_timesteps|{num_steps}"])
    np.testing.assert_allclose(stops.sigmas, GOLDEN[f"{param}|edm_sigmas|{num_steps}"], rtol=1e-6)


@pytest.mark.parametrize("param", ["eps", "v"])
def test_one_step_goes_from_the_last_timestep_to_x0(param):
    steps = spaced_steps(Span(SCHEDULES[param], 1))
    assert steps.level.timestep.tolist() == [999]
    assert (steps.coef_x0[0], steps.coef_x[0], steps.variance[0]) == (1, 0, 0)


def test_every_timestep():
    assert space_timesteps(1000, 1000).tolist() == list(range(999, -1, -1))


@pytest.mark.parametrize("num_steps", [1, 2, 3, 7, 400])
def test_start_from_an_intermediate_timestep(num_steps):
    steps = spaced_steps(Span(SCHEDULES["v"], num_steps, 400))
    assert steps.level.timestep[0] == 399
    assert len(set(steps.level.timestep.tolist())) == num_steps
    assert (steps.coef_x0[-1], steps.coef_x[-1], steps.variance[-1]) == (1, 0, 0)


def test_posterior_keeps_the_marginal():
    """A step from the marginal at t leads to the marginal at the previous timestep: mean and variance."""
    steps = spaced_steps(Span(SCHEDULES["eps"], 50))
    signal = steps.coef_x0 + steps.coef_x * steps.level.signal
    variance = (steps.coef_x * steps.level.noise) ** 2 + steps.variance
    np.testing.assert_allclose(signal[:-1], steps.level.signal[1:], atol=1e-6)
    np.testing.assert_allclose(variance[:-1], steps.level.noise[1:] ** 2, atol=1e-6)


def test_guidance_moves_the_posterior_mean_by_the_same_length_everywhere():
    steps = spaced_steps(Span(SCHEDULES["eps"], 10), guidance_scale=0.2)
    np.testing.assert_allclose(steps.level.guidance * steps.coef_x0, 600, rtol=1e-6)


def test_guidance_window():
    steps = spaced_steps(Span(SCHEDULES["eps"], 10), guidance_scale=0.2, guidance_window=(111, 556))
    np.testing.assert_array_equal(steps.level.guidance > 0, [0, 0, 0, 0, 1, 1, 1, 1, 1, 0])


def test_rescaled_cfg_rises_towards_the_end():
    timesteps = np.array([999, 500, 100, 0])
    scales = cfg_scales(6.0, timesteps, rescale=True)
    np.testing.assert_allclose(scales[[0, -1]], [1, 7], atol=1e-6)
    assert np.all(np.diff(scales) > 0)
    assert cfg_scales(1.0, timesteps, rescale=True).tolist() == [1, 1, 1, 1]


def test_errors():
    with pytest.raises(ValueError, match="1001 sampling steps given; allowed are 1 to 1000"):
        spaced_steps(Span(SCHEDULES["eps"], 1001))
    with pytest.raises(ValueError, match="5 sampling steps given; allowed are 1 to 4"):
        spaced_steps(Span(SCHEDULES["eps"], 5, 4))
    with pytest.raises(ValueError, match="start_timestep is 1001"):
        spaced_steps(Span(SCHEDULES["eps"], 5, 1001))
    with pytest.raises(ValueError, match="0 sampling steps"):
        edm_stops(Span(SCHEDULES["eps"], 0))
    with pytest.raises(ValueError, match="spacing is 'linear'; use one of .*'uniform', 'trailing'"):
        edm_stops(Span(SCHEDULES["eps"], 5, spacing="linear"))  # pyright: ignore[reportArgumentType]


SPACINGS = get_args(Spacing)


def first_timestep(param: str, start: int | None, spacing: str) -> float:
    """The last timestep covered or, where a ramp finds more noise there, the one with a sigma of 80."""
    sigmas = schedule_sigmas(SCHEDULES[param])[: start or 1000]
    if spacing in ("uniform", "trailing") or sigmas[-1] <= 80:
        return len(sigmas) - 1
    i = int(np.searchsorted(sigmas, 80))
    low, high, at = np.log([sigmas[i - 1], sigmas[i], 80.0])
    return i - 1 + (at - low) / (high - low)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("start", [None, 400])
@pytest.mark.parametrize("spacing", SPACINGS[1:])
def test_every_sampler_takes_every_spacing(spacing, start, name):
    """From the last timestep covered to x0, with tables of the same shape as the uniform ones."""
    steps = make_sampler(name, Span(SCHEDULES["v"], 6, start, spacing))
    assert steps.level.timestep[0] == pytest.approx(first_timestep("v", start, spacing), abs=1e-3)
    if name != "edm_lms":  # extrapolates slopes to the very end
        assert (steps.coef_x0[-1], steps.coef_x[-1], steps.variance[-1]) == (1, 0, 0)
    first_calls = steps.level.timestep[:: 1 if len(steps.variance) == 6 else 2]
    assert len(first_calls) == 6 and np.all(np.diff(first_calls) < 0) and first_calls[-1] >= 0
    if name != "ddim":
        uniform = make_sampler(name, Span(SCHEDULES["v"], 6, start))
        assert jax.tree.map(np.shape, steps) == jax.tree.map(np.shape, uniform)


@pytest.mark.parametrize("param", SCHEDULES)
@pytest.mark.parametrize("num_steps", [1, 2, 3, 20])
def test_trailing_goes_from_the_last_timestep_in_equal_strides(num_steps, param):
    """Lin et al. 2023, table 2: 10 steps visit 999, 899, ..., 99."""
    stops = edm_stops(Span(SCHEDULES[param], num_steps, spacing="trailing"))
    expected = np.round(np.arange(1000, 0, -1000 / num_steps)) - 1
    np.testing.assert_array_equal(stops.timesteps[:-1], expected)
    np.testing.assert_allclose(
        stops.sigmas[1:-1], schedule_sigmas(SCHEDULES[param])[expected[1:].astype(int)], rtol=1e-12
    )


def test_karras():
    """Karras et al. 2022, equation 5, with the schedule's own ends."""
    sigmas = schedule_sigmas(SCHEDULES["eps"])
    stops = edm_stops(Span(SCHEDULES["eps"], 5, spacing="karras"))
    low, high = sigmas[0] ** (1 / 7), sigmas[-1] ** (1 / 7)
    expected = [(high + i / 4 * (low - high)) ** 7 for i in range(5)]
    np.testing.assert_allclose(stops.sigmas, [*expected, 0.0], rtol=1e-12)


def test_exponential():
    stops = edm_stops(Span(SCHEDULES["eps"], 9, spacing="exponential"))
    ratios = stops.sigmas[1:-1] / stops.sigmas[:-2]
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-9)


@pytest.mark.parametrize("spacing", ["karras", "exponential"])
def test_ramps_begin_at_80_where_the_schedule_goes_beyond(spacing):
    stops = edm_stops(Span(SCHEDULES["v"], 6, spacing=spacing))
    assert stops.sigmas[0] == 80 and 970 < stops.timesteps[0] < 999
    assert 10 < stops.sigmas[1] < 80


@pytest.mark.parametrize("spacing", SPACINGS[1:])
def test_timesteps_belong_to_their_sigmas(spacing):
    schedule = SCHEDULES["eps"]
    stops = edm_stops(Span(schedule, 12, 700, spacing))
    sigmas = np.exp(np.interp(stops.timesteps[:-1], np.arange(1000), np.log(schedule_sigmas(schedule))))
    np.testing.assert_allclose(sigmas, stops.sigmas[:-1], rtol=1e-9)


def test_interpolated_timesteps():
    sigmas = schedule_sigmas(SCHEDULES["eps"])
    between = np.sqrt(sigmas[10] * sigmas[11])
    np.testing.assert_allclose(
        interpolated_timestep(SCHEDULES["eps"], np.array([sigmas[10], between, 1e-9, 1e9])),
        [10, 10.5, 0, 999],
        rtol=1e-9,
    )
