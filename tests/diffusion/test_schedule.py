"""Noise schedule and conversions against the reference's numbers and against each other."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.diffusion import schedule as ds

GOLDEN = Path(__file__).parents[1] / "golden"
SCHEDULES = {
    "eps": ds.make_schedule(),
    "v": ds.make_schedule(zero_terminal_snr=True, parameterization="v"),
}


def nhwc(array: np.ndarray) -> jax.Array:
    return jnp.asarray(array.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("param", ["eps", "v"])
def test_alphas_cumprod(param):
    golden = np.load(GOLDEN / "samplers.npz")[f"{param}|alphas_cumprod"]
    np.testing.assert_allclose(SCHEDULES[param].alphas_cumprod, golden, rtol=0, atol=1e-6)


@pytest.mark.parametrize("param", ["eps", "v"])
def test_q_sample(param):
    golden = np.load(GOLDEN / "training.npz")
    t = jnp.asarray(golden["timesteps"].astype(np.int32))
    noisy = ds.q_sample(SCHEDULES[param], nhwc(golden["z0"]), t, nhwc(golden["noise"]))
    np.testing.assert_allclose(noisy, nhwc(golden[f"{param}|noisy"]), rtol=0, atol=1e-6 * np.abs(noisy).max())


def test_zero_terminal_snr_ends_in_pure_noise():
    table = SCHEDULES["v"].alphas_cumprod
    assert table[-1] == 0
    assert table[0] == pytest.approx(SCHEDULES["eps"].alphas_cumprod[0], abs=1e-12)


@pytest.mark.parametrize("param", ["eps", "v"])
def test_target_determines_x0_and_noise(param):
    """The perfect prediction gives back exactly what z_t was made of."""
    x0, noise = jax.random.normal(jax.random.key(0), (2, 3, 4, 5, 4))
    t = jnp.asarray([1, 400, 800])
    schedule = SCHEDULES[param]
    x, target = ds.q_sample(schedule, x0, t, noise), ds.training_target(schedule, x0, t, noise)
    signal, sigma = ds.signal_and_noise(schedule, t)
    np.testing.assert_allclose(ds.predict_x0(param, x, target, signal, sigma), x0, atol=1e-5)
    np.testing.assert_allclose(ds.predict_eps(param, x, target, signal, sigma), noise, atol=1e-5)
    np.testing.assert_allclose(ds.eps_from_x0(x, x0, signal, sigma)[1:], noise[1:], atol=1e-5)


def test_equal_arguments_give_the_same_object():
    assert ds.make_schedule() is ds.make_schedule()
    assert ds.make_schedule() is not ds.make_schedule(parameterization="v")


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"parameterization": "x0"}, "'x0'.*'eps', 'v'"),
        ({"zero_terminal_snr": True}, "needs parameterization='v'"),
        ({"num_timesteps": 1}, "at least 2"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ds.make_schedule(**kwargs)
