"""Step tables against the reference's, and what the reference cannot do: one step, intermediate starts."""

from pathlib import Path

import numpy as np
import pytest

from diffbir_jax.diffusion.schedule import make_schedule
from diffbir_jax.sampling.timesteps import cfg_scales, edm_schedule, space_timesteps, spaced_steps

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
    steps = spaced_steps(SCHEDULES[param], num_steps)
    np.testing.assert_array_equal(steps.level.timestep[::-1], GOLDEN[f"{param}|spaced_timesteps|{num_steps}"])
    for name, table in [
        ("posterior_variance", steps.variance), ("coef1", steps.coef_x0), ("coef2", steps.coef_x)
    ]:  # fmt: skip
        golden = GOLDEN[f"{param}|spaced_{name}|{num_steps}"]
        np.testing.assert_allclose(table[::-1], golden, rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("param, num_steps", counts("edm_sigmas"))
def test_edm(param, num_steps):
    timesteps, sigmas = edm_schedule(SCHEDULES[param], num_steps)
    np.testing.assert_array_equal(timesteps, GOLDEN[f"{param}|edm_timesteps|{num_steps}"])
    np.testing.assert_allclose(sigmas, GOLDEN[f"{param}|edm_sigmas|{num_steps}"], rtol=1e-6)


@pytest.mark.parametrize("param", ["eps", "v"])
def test_one_step_goes_from_the_last_timestep_to_x0(param):
    steps = spaced_steps(SCHEDULES[param], 1)
    assert steps.level.timestep.tolist() == [999]
    assert (steps.coef_x0[0], steps.coef_x[0], steps.variance[0]) == (1, 0, 0)


def test_every_timestep():
    assert space_timesteps(1000, 1000).tolist() == list(range(999, -1, -1))


@pytest.mark.parametrize("num_steps", [1, 2, 3, 7, 400])
def test_start_from_an_intermediate_timestep(num_steps):
    steps = spaced_steps(SCHEDULES["v"], num_steps, start_timestep=400)
    assert steps.level.timestep[0] == 399
    assert len(set(steps.level.timestep.tolist())) == num_steps
    assert (steps.coef_x0[-1], steps.coef_x[-1], steps.variance[-1]) == (1, 0, 0)


def test_posterior_keeps_the_marginal():
    """A step from the marginal at t leads to the marginal at the previous timestep: mean and variance."""
    steps = spaced_steps(SCHEDULES["eps"], 50)
    signal = steps.coef_x0 + steps.coef_x * steps.level.signal
    variance = (steps.coef_x * steps.level.noise) ** 2 + steps.variance
    np.testing.assert_allclose(signal[:-1], steps.level.signal[1:], atol=1e-6)
    np.testing.assert_allclose(variance[:-1], steps.level.noise[1:] ** 2, atol=1e-6)


def test_guidance_moves_the_posterior_mean_by_the_same_length_everywhere():
    steps = spaced_steps(SCHEDULES["eps"], 10, guidance_scale=0.2)
    np.testing.assert_allclose(steps.level.guidance * steps.coef_x0, 600, rtol=1e-6)


def test_guidance_window():
    steps = spaced_steps(SCHEDULES["eps"], 10, guidance_scale=0.2, guidance_window=(111, 556))
    np.testing.assert_array_equal(steps.level.guidance > 0, [0, 0, 0, 0, 1, 1, 1, 1, 1, 0])


def test_rescaled_cfg_rises_towards_the_end():
    timesteps = np.array([999, 500, 100, 0])
    scales = cfg_scales(6.0, timesteps, rescale=True)
    np.testing.assert_allclose(scales[[0, -1]], [1, 7], atol=1e-6)
    assert np.all(np.diff(scales) > 0)
    assert cfg_scales(1.0, timesteps, rescale=True).tolist() == [1, 1, 1, 1]


def test_errors():
    with pytest.raises(ValueError, match="1001 sampling steps given; allowed are 1 to 1000"):
        spaced_steps(SCHEDULES["eps"], 1001)
    with pytest.raises(ValueError, match="5 sampling steps given; allowed are 1 to 4"):
        spaced_steps(SCHEDULES["eps"], 5, start_timestep=4)
    with pytest.raises(ValueError, match="start_timestep is 1001"):
        spaced_steps(SCHEDULES["eps"], 5, start_timestep=1001)
    with pytest.raises(ValueError, match="0 sampling steps"):
        edm_schedule(SCHEDULES["eps"], 0)
