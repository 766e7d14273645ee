"""Noise schedule and conversions against the reference's numbers and against each other."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.diffusion import schedule as ds
from diffbir_jax.parity.runner import misses
from diffbir_jax.parity.sampling import SCHEDULES
from tests.draws import normal

GOLDEN = Path(__file__).parents[1] / "golden"


def test_parity():
    """Of the table, and of latents noised with it."""
    assert misses(GOLDEN, "samplers:*|alphas_cumprod") == []
    assert misses(GOLDEN, "training:*|noisy") == []


def test_zero_terminal_snr_ends_in_pure_noise():
    table = SCHEDULES["v"].alphas_cumprod
    assert table[-1] == 0
    assert table[0] == pytest.approx(SCHEDULES["eps"].alphas_cumprod[0], abs=1e-12)


@pytest.mark.parametrize("param", ["eps", "v"])
def test_target_determines_x0(param):
    """The perfect prediction gives back exactly what z_t was made of."""
    x0, noise = normal(0, (2, 3, 4, 5, 4))
    t = jnp.asarray([1, 400, 800])
    schedule = SCHEDULES[param]
    x, target = ds.q_sample(schedule, x0, t, noise), ds.training_target(schedule, x0, t, noise)
    signal, sigma = ds.signal_and_noise(schedule, t)
    np.testing.assert_allclose(ds.predict_x0(param, x, target, signal, sigma), x0, atol=1e-5)


def test_equal_arguments_give_the_same_object():
    """However they are given: left out or not, in any order, as a number or NumPy's."""
    plain = ds.make_schedule()
    assert plain is ds.make_schedule(parameterization="eps", zero_terminal_snr=False)
    assert plain is ds.make_schedule(zero_terminal_snr=False, parameterization="eps")
    assert plain is ds.make_schedule(num_timesteps=np.int64(1000), beta_end=0.012)
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
