"""Every sampler: the reference's trajectories, an oracle, what its table must keep, and accuracy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.diffusion.schedule import q_sample
from diffbir_jax.sampling.ddim import ddim_timesteps
from diffbir_jax.sampling.denoiser import Denoiser, DenoiserInputs
from diffbir_jax.sampling.loop import draw_noise, image_keys, sample
from diffbir_jax.sampling.samplers import SAMPLERS, make_sampler
from diffbir_jax.sampling.timesteps import Level, LinearStep, spaced_steps
from tests.sampling.toy import GOLDEN, SCHEDULES, nhwc, oracle, toy_inputs, toy_model

KEYS = [key for key in GOLDEN.files if key.endswith("|out") and key.split("|")[1] in SAMPLERS]
CHOICES = [(name, None) for name in SAMPLERS] + [("ddim", 1.0), ("ddim", 0.3), ("edm_dpm++_3m_sde", 0.0)]


def reach(steps: LinearStep) -> np.ndarray:
    """What a shift of all predictions by 1 moves the next latents by."""
    return np.asarray(steps.coef_x0 + sum(steps.earlier))


@pytest.mark.parametrize("key", KEYS)
def test_parity(key):
    param, name, num_steps, cfg, rescale, *_ = [part.split("=")[-1] for part in key.split("|")]
    sampler, steps = make_sampler(
        name, SCHEDULES[param], int(num_steps), cfg_scale=float(cfg), rescale_cfg=rescale == "1"
    )
    noise = nhwc(GOLDEN["noise_tape"][: len(steps.variance)])
    out = sample(sampler, Denoiser(toy_model, param), toy_inputs(), nhwc(GOLDEN["x_T"]), steps, noise)
    golden = nhwc(GOLDEN[key])
    # The first sigma of 1e4 multiplies errors of eps: results reach 3e4, where float32 has steps of 2e-3.
    unit = np.abs(golden).max() if key.startswith("eps|edm") else 1.0
    np.testing.assert_allclose(out, golden, rtol=0, atol=1e-4 * unit)
    # The reference's ddim draws noise even where it multiplies it by 0; its solvers draw none for the last step.
    drawn = len(steps.variance) if name in ("spaced", "ddim") else np.count_nonzero(steps.variance)
    assert drawn == GOLDEN[key.removesuffix("out") + "noise_count"]


@pytest.mark.parametrize("param", SCHEDULES)
@pytest.mark.parametrize("num_steps, start", [(7, None), (4, 300)])
@pytest.mark.parametrize("name", SAMPLERS)
def test_oracle_recovers_x0(name, num_steps, start, param):
    keys = image_keys(0, [0, 1])
    x0 = jax.random.normal(jax.random.key(5), (2, 4, 6, 4))
    sampler, steps = make_sampler(name, SCHEDULES[param], num_steps, start_timestep=start)
    noise = draw_noise(keys, 0, x0.shape)
    x = q_sample(SCHEDULES[param], x0, jnp.full(2, steps.level.timestep[0]), noise)
    out = sample(sampler, oracle(param), DenoiserInputs(None, x0), x, steps, keys)
    if name == "ddim" and start is None:
        # The reference's ends at timestep 0, with the noise it began with.
        x0 = q_sample(SCHEDULES[param], x0, jnp.zeros(2, int), noise)
    np.testing.assert_allclose(out, x0, atol=1e-4)


@pytest.mark.parametrize("param", SCHEDULES)
@pytest.mark.parametrize("start", [None, 600])
@pytest.mark.parametrize("name, eta", CHOICES)
def test_steps_keep_the_marginal(name, eta, start, param):
    """Where the predictions are right, a step leads from the marginal here to that of the next timestep."""
    _, steps = make_sampler(name, SCHEDULES[param], 20, start_timestep=start, eta=eta)
    signal = reach(steps) + steps.coef_x * steps.level.signal
    variance = (steps.coef_x * steps.level.noise) ** 2 + steps.variance
    np.testing.assert_allclose(signal[:-1], steps.level.signal[1:], atol=1e-6)
    np.testing.assert_allclose(variance[:-1], steps.level.noise[1:] ** 2, atol=1e-6)
    end = SCHEDULES[param].alphas_cumprod[0] if name == "ddim" and start is None else 1.0
    np.testing.assert_allclose((signal[-1] ** 2, variance[-1]), (end, 1 - end), atol=1e-6)


@pytest.mark.parametrize("name, eta", CHOICES)
def test_guidance_moves_the_next_mean_by_the_same_length_everywhere(name, eta):
    _, steps = make_sampler(name, SCHEDULES["v"], 10, eta=eta, guidance_scale=0.2)
    np.testing.assert_allclose(steps.level.guidance * reach(steps), 600, rtol=1e-5)


@pytest.mark.parametrize("name", ["ddim", "edm_dpm++_3m_sde"])
def test_full_noise_is_ddpm(name):
    """With eta 1, mean (its reach, for methods that look back) and variance are those of DDPM's posterior."""
    _, steps = make_sampler(name, SCHEDULES["eps"], 10, start_timestep=400, eta=1.0)
    alphas_cumprod = np.append(SCHEDULES["eps"].alphas_cumprod[steps.level.timestep], 1.0)
    here, after = alphas_cumprod[:-1], alphas_cumprod[1:]
    expected = (1 - here / after) / (1 - here)
    np.testing.assert_allclose(reach(steps), expected * np.sqrt(after), rtol=1e-5)
    np.testing.assert_allclose(steps.variance, expected * (1 - after), rtol=1e-5, atol=1e-7)
    if name == "ddim":
        ddpm = spaced_steps(SCHEDULES["eps"], 10, start_timestep=400)
        np.testing.assert_allclose(steps.coef_x, ddpm.coef_x, rtol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("num_steps, start", [(1, None), (1, 1), (1, 400), (400, 400), (1000, None)])
def test_few_and_many_steps(name, num_steps, start):
    _, steps = make_sampler(name, SCHEDULES["v"], num_steps, start_timestep=start)
    assert steps.level.timestep[0] == (start or 1000) - 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(steps))
    assert np.all(np.diff(steps.level.timestep) < 0)
    if (name, num_steps) != ("ddim", 1000):
        assert len(steps.variance) == num_steps
        assert (steps.coef_x0[-1], steps.coef_x[-1], steps.variance[-1]) == (1, 0, 0)


@pytest.mark.parametrize("num_steps, visited", [(4, 4), (6, 7), (3, 4), (9, 10), (600, 999), (1000, 999)])
def test_ddim_visits_what_its_stride_gives(num_steps, visited):
    """As the reference; where it fails, because the stride divides 999, the last of them is 999."""
    timesteps = ddim_timesteps(1000, num_steps)
    assert (len(timesteps), timesteps[-1]) == (visited, 1)
    assert timesteps[0] <= 999


def error_of_the_ode(name: str, num_steps: int) -> float:
    """Relative error at the last timestep visited, eta 0, data from a normal distribution (its ODE is solvable)."""
    schedule, deviation = SCHEDULES["v"], 0.5

    def denoise(inputs: None, z: jax.Array, level: Level) -> jax.Array:
        variance = (level.signal * deviation) ** 2 + level.noise**2
        return level.signal * deviation**2 / variance * z

    sampler, steps = make_sampler(name, schedule, num_steps, start_timestep=900, eta=0.0)
    ends = np.sqrt((steps.level.signal * deviation) ** 2 + steps.level.noise**2)[[0, -1]]
    inner = jax.tree.map(lambda a: a[:-1], steps)
    z = jnp.ones((1, 1, 1, 1))
    out = sample(sampler, denoise, None, z, inner, jnp.zeros((num_steps - 1, 1, 1, 1, 1)))
    return abs(float(out[0, 0, 0, 0]) * ends[0] / ends[1] - 1)


def test_the_ode_is_solved_to_a_higher_order():
    """Four times the steps: first order divides the error by four, second order by sixteen."""
    ddim = [error_of_the_ode("ddim", num_steps) for num_steps in (20, 80)]
    multistep = [error_of_the_ode("edm_dpm++_3m_sde", num_steps) for num_steps in (20, 80)]
    assert 3 < ddim[0] / ddim[1] < 5
    assert multistep[0] / multistep[1] > 8
    assert multistep[0] < ddim[0] / 20


@pytest.mark.parametrize(
    "choices",
    [
        [("ddim", None), ("ddim", 0.5), ("spaced", None)],
        [("edm_dpm++_3m_sde", None), ("edm_dpm++_3m_sde", 0.0)],
    ],
)
def test_new_values_do_not_recompile(choices):
    """Nor do other samplers of the same order."""
    traces = []

    def model(params: None, x: jax.Array, t: jax.Array, cond: dict) -> jax.Array:
        traces.append(x.shape)
        return toy_model(params, x, t, cond)

    denoiser = Denoiser(model, "eps")
    for number, (name, eta) in enumerate(choices):
        for start in (None, 400 + number):
            sampler, steps = make_sampler(
                name,
                SCHEDULES["eps"],
                5,
                start_timestep=start,
                eta=eta,
                cfg_scale=2.0,
                rescale_cfg=number > 0,
            )
            sample(sampler, denoiser, toy_inputs(), nhwc(GOLDEN["x_T"]), steps, image_keys(number, [0, 1]))
    assert len(traces) == 1
