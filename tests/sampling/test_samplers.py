"""Every sampler: the reference's trajectories, an oracle, what its table must keep, accuracy where it can be known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.diffusion.schedule import q_sample
from diffbir_jax.parity.runner import misses
from diffbir_jax.parity.sampling import through_replay
from diffbir_jax.sampling.ddpm import ddim_timesteps, spaced_steps
from diffbir_jax.sampling.denoiser import Denoiser
from diffbir_jax.sampling.guidance import PixelGuidance
from diffbir_jax.sampling.loop import draw_noise, image_keys, linear_step, sample
from diffbir_jax.sampling.samplers import SAMPLERS, check_settings, make_sampler, settings_of
from diffbir_jax.sampling.tables import GUIDANCE_UNIT, Churn, Level, LinearStep, Values
from diffbir_jax.sampling.timesteps import Span
from tests.draws import normal
from tests.models.reference import GOLDEN as FOLDER
from tests.sampling.test_timesteps import first_timestep
from tests.sampling.toy import GOLDEN, SCHEDULES, nhwc, toy_inputs, toy_model

TWO_CALLS = ("edm_heun", "edm_dpm_2", "edm_dpm_2_a", "edm_dpm++_2s_a", "edm_dpm++_sde")
WITH_ETA = [name for name in SAMPLERS if "eta" in settings_of(name)]
WITH_CHURN = [name for name in SAMPLERS if "s_churn" in settings_of(name)]
SETTINGS = [(name, {}) for name in SAMPLERS]
SETTINGS += [(name, {"eta": eta}) for name in WITH_ETA for eta in (0.0, 0.4, 1.0)]
SETTINGS += [(name, {"s_churn": 2.0, "s_noise": 1.0}) for name in WITH_CHURN]


def test_all_samplers_of_the_reference_are_here():
    assert {key.split("|")[1] for key in GOLDEN.files if key.endswith("|out")} == set(SAMPLERS)


def _case(name, param):
    """A case. This sampler multiplies rounding by thousands on eps: it needs the programs that users run."""
    far = (name, param) == ("edm_dpm_2_a", "eps")
    return pytest.param(name, param, marks=[pytest.mark.slow] if far else [])


@pytest.mark.parametrize("name, param", [_case(name, param) for name in SAMPLERS for param in SCHEDULES])
def test_parity(name, param):
    """Every key of the golden trajectories; docs/sampling.md says how rounding is told from error."""
    assert misses(FOLDER, f"samplers:{param}|{name}") == []


def test_parity_through_a_replay_sees_both_kinds_of_error():
    golden = np.array([1.0, -3.0])
    right = np.stack([golden + 1e-6, golden, golden])
    assert through_replay(right, golden) == pytest.approx(1e-6, rel=1e-3)
    assert through_replay(right + np.array([[0.1], [0], [0]]), golden) == pytest.approx(0.1, rel=1e-3)
    assert through_replay(right + np.array([[0], [0], [0.3]]), golden) == pytest.approx(0.1, rel=1e-3)
    # Where float32 resolves no more, what the golden itself is off is allowed for, but no more than the tolerance.
    large = 1e4 * golden
    for off, allowed in ((5e-5, 5e-5), (0.1, 1e-4)):
        exact = large * (1 + off)
        ours = exact * (1 + 0.01)
        error = through_replay(np.stack([ours, exact, large]), large)
        assert error == pytest.approx(0.01 - allowed, rel=1e-3)


def padded(steps: LinearStep, rows: int) -> LinearStep:
    """The table with rows behind it that leave latents as they are: tables of one length share a program."""

    def fill(values: Values, value: float) -> np.ndarray:
        return np.append(values, np.full(rows - len(np.asarray(values)), value, np.float32))

    level = jax.tree.map(lambda values: fill(values, values[-1]), steps.level)
    churn = steps.churn and Churn(fill(steps.churn.coef_x, 1.0), fill(steps.churn.variance, 0.0))
    back = [tuple(fill(values, 0.0) for values in each) for each in (steps.earlier_x0, steps.earlier_x)]
    return LinearStep(
        level, fill(steps.coef_x0, 0.0), fill(steps.coef_x, 1.0), fill(steps.variance, 0.0), *back, churn
    )


# An oracle


def oracle(x0: jax.Array, x: jax.Array, level: Level) -> tuple[jax.Array, jax.Array]:
    """A denoiser that knows the clean image."""
    return x0, x0


@pytest.mark.parametrize("param", SCHEDULES)
@pytest.mark.parametrize("num_steps, start", [(7, None), (7, 300), (1, None)])
@pytest.mark.parametrize("name", SAMPLERS)
def test_oracle_recovers_x0(name, num_steps, start, param):
    keys = image_keys(0, [0, 1])
    x0 = normal(5, (2, 4, 6, 4))
    steps = make_sampler(name, Span(SCHEDULES[param], num_steps, start))
    x = q_sample(SCHEDULES[param], x0, jnp.full(2, (start or 1000) - 1), draw_noise(keys, 0, x0.shape))
    out = sample(
        oracle, x0, x, padded(steps, 13), keys
    )  # as many as two calls in each step but the last have
    if name == "dpm++_m2" or (name == "ddim" and start is None and num_steps > 1):
        level = jax.tree.map(lambda a: a[0], steps.level)
        x0 = q_sample(SCHEDULES[param], x0, jnp.zeros(2, int), (x - level.signal * x0) / level.noise)
    np.testing.assert_allclose(out, x0, atol=1e-4)


def linear_decode(params: jax.Array, z: jax.Array) -> jax.Array:
    return z @ params


def guided_oracle(inputs: tuple, x: jax.Array, level: Level) -> tuple[jax.Array, jax.Array]:
    """The same under guidance through `linear_decode`, for (x0, prepared guidance)."""
    x0, prepared = inputs
    return x0, PixelGuidance(linear_decode, "mse")(prepared, x0, level.guidance)


@pytest.mark.parametrize("name", SAMPLERS)
def test_guided_oracle_matches_the_closed_form(name):
    """With W = 1 and D(z) = z A the result is x0 - 3000 s * 2/(HWC) * (x0 A - target) A^T, the last prediction."""
    matrix, x0 = normal(1, (4, 4)), normal(2, (2, 4, 6, 4))
    target = jnp.tanh(normal(3, x0.shape))
    prepared = PixelGuidance(linear_decode, "mse").prepare(matrix, target)
    # The last of the multistep method's steps extrapolates slopes, unless it is the only one.
    span = Span(SCHEDULES["v"], 1 if name == "edm_lms" else 5, spacing="trailing")
    last = jax.tree.map(lambda a: a[-1:], make_sampler(name, span, guidance_scale=1e-3))
    out = sample(guided_oracle, (x0, prepared), x0, last, image_keys(0, [0, 1]))
    step = 3.0 * 2 / x0[0].size * (x0 @ matrix - target) @ matrix.T
    np.testing.assert_allclose(out, x0 - step, atol=1e-5)


# What tables keep


@pytest.mark.parametrize("param", SCHEDULES)
@pytest.mark.parametrize("start", [None, 600])
@pytest.mark.parametrize("name, settings", [(n, s) for n, s in SETTINGS if n != "edm_lms"])
def test_steps_keep_the_marginal(name, settings, start, param):
    """Where the predictions are right, a row leads from the marginal here to that of the next one."""
    steps = make_sampler(name, Span(SCHEDULES[param], 20, start), settings)
    signal, noise = (np.asarray(a, np.float64) for a in (steps.level.signal, steps.level.noise))
    back = sum((np.asarray(b) for b in steps.earlier_x), np.zeros_like(signal))
    mean = steps.coef_x0 + steps.coef_x * signal + back * np.roll(signal, 1)
    variance = (steps.coef_x * noise + back * np.roll(noise, 1)) ** 2 + steps.variance
    if steps.churn is not None:  # which the next row begins with
        mean = np.append(mean[:-1] * steps.churn.coef_x[1:], mean[-1])
        variance[:-1] = variance[:-1] * steps.churn.coef_x[1:] ** 2 + steps.churn.variance[1:]
    np.testing.assert_allclose(mean[:-1], signal[1:], atol=2e-6)
    np.testing.assert_allclose(variance[:-1], noise[1:] ** 2, atol=2e-6)
    left = SCHEDULES[param].alphas_cumprod[0]
    end = left if name == "dpm++_m2" or (name == "ddim" and start is None) else 1.0
    np.testing.assert_allclose((mean[-1] ** 2, variance[-1]), (end, 1 - end), atol=1e-6)


@pytest.mark.parametrize("name", SAMPLERS)
def test_guidance_moves_the_latents_once(name):
    """By 3000 s times the gradient in one step; nothing that is remembered of it acts in the steps after."""
    steps = make_sampler(name, Span(SCHEDULES["v"], 10, 600), guidance_scale=0.01)
    rows = [jax.tree.map(lambda a, i=i: a[i], steps) for i in range(len(steps.variance))]
    noise = jnp.zeros((1, 1, 1, 1))

    def run(guided_rows: set[int]) -> list[float]:
        """The latents after every row."""
        x, places = jnp.full((1, 1, 1, 1), 0.7), []
        carry = (x, (noise,) * len(steps.earlier_x), (noise,) * len(steps.earlier_x0))
        for i, row in enumerate(rows):
            pull = float(row.level.guidance) if i in guided_rows else 0.0
            carry = linear_step(
                lambda x, level, pull=pull: (0.2 + 0 * x, 0.2 - pull + 0 * x), carry, row, noise
            )
            places.append(float(carry[0][0, 0, 0, 0]))
        return places

    # A step in the middle, both of its calls where there are two.
    guided = {8, 9} if name in TWO_CALLS else {4}
    after = max(guided)
    plain, moved = run(set()), run(guided)
    assert moved[after] - plain[after] == pytest.approx(-0.01 * GUIDANCE_UNIT, rel=1e-4)
    assert moved[: min(guided)] == plain[: min(guided)]
    if name != "edm_lms":  # whose slopes see the latents that were moved
        following = after + (2 if name in TWO_CALLS else 1)
        kept = float(rows[following].earlier_x[0] if name in TWO_CALLS else rows[following].coef_x)
        expected = kept * (moved[after] - plain[after])
        assert moved[following] - plain[following] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name, settings", SETTINGS)
def test_guidance_steps_are_as_long_as_their_reach_asks(name, settings):
    steps = make_sampler(name, Span(SCHEDULES["v"], 10), settings, guidance_scale=0.2)
    guidance = np.asarray(steps.level.guidance)
    if name in TWO_CALLS:
        assert not guidance[:-1:2].any(), "a step is guided once"
        guidance, steps = np.append(guidance[1::2], guidance[-1]), every_end(steps)
    np.testing.assert_allclose(guidance * steps.coef_x0, 0.2 * GUIDANCE_UNIT, rtol=1e-5)


def every_end(steps: LinearStep) -> LinearStep:
    """The rows of a method with two calls per step that end a step."""
    count = len(steps.variance)
    ends = np.append(np.arange(1, count, 2), count - 1)
    return jax.tree.map(lambda a: a[ends], steps)


@pytest.mark.parametrize("name", ["ddim", "edm_euler_a", "edm_dpm++_2m_sde", "edm_dpm++_3m_sde"])
def test_full_noise_is_ddpm(name):
    """With eta 1, what a shift of the predictions does to the mean, and the variance, are those of DDPM's posterior."""
    span = Span(SCHEDULES["eps"], 10, 400)
    steps = make_sampler(name, span, {"eta": 1.0})
    alphas_cumprod = np.append(1 / (1 + (steps.level.noise / steps.level.signal).astype(float) ** 2), 1.0)
    here, after = alphas_cumprod[:-1], alphas_cumprod[1:]
    expected = (1 - here / after) / (1 - here)
    np.testing.assert_allclose(steps.coef_x0, expected * np.sqrt(after), rtol=1e-5)
    np.testing.assert_allclose(steps.variance, expected * (1 - after), rtol=1e-5, atol=1e-7)
    if name == "ddim":
        np.testing.assert_allclose(steps.coef_x, spaced_steps(span).coef_x, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "one, other, settings",
    [
        ("edm_euler_a", "edm_euler", {"eta": 0.0}),
        ("edm_dpm_2_a", "edm_dpm_2", {"eta": 0.0}),
        ("edm_dpm++_2m_sde", "edm_dpm++_2m", {"eta": 0.0}),
        ("edm_dpm++_sde", "edm_dpm++_2s_a", {"eta": 0.0}),
        ("edm_lms", "edm_euler", {"order": 1}),
    ],
)
def test_relatives_meet(one, other, settings):
    """Without noise the stochastic methods are the deterministic ones; a multistep method of one slope is Euler's."""
    span = Span(SCHEDULES["v"], 8)
    more = {"eta": 0.0} if "eta" in settings_of(other) else {}
    first, second = make_sampler(one, span, settings), make_sampler(other, span, more)
    for field in ("coef_x0", "coef_x", "variance"):
        np.testing.assert_allclose(getattr(first, field), getattr(second, field), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", WITH_CHURN)
def test_churn_has_a_window(name):
    span = Span(SCHEDULES["v"], 8)
    churn = make_sampler(name, span, {"s_churn": 1.0, "s_tmin": 0.5, "s_tmax": 20.0}).churn
    assert churn is not None
    sigmas = np.sqrt(1 / make_sampler(name, span).level.signal.astype(float) ** 2 - 1)
    inside = (sigmas >= 0.5) & (sigmas <= 20)
    if name in TWO_CALLS:
        inside[1::2] = False
    np.testing.assert_array_equal(churn.variance > 0, inside)


@pytest.mark.parametrize("spacing", ["uniform", "trailing", "karras", "exponential"])
@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("num_steps, start", [(1, None), (1, 1), (1, 400), (400, 400), (1000, None)])
def test_few_and_many_steps(name, num_steps, start, spacing):
    for param in SCHEDULES:
        steps = make_sampler(name, Span(SCHEDULES[param], num_steps, start, spacing), guidance_scale=1.0)
        assert steps.level.timestep[0] == pytest.approx(first_timestep(param, start, spacing), abs=0.1)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(steps))
        assert np.all((every_end(steps) if name in TWO_CALLS else steps).level.guidance > 0)
        calls = 2 * num_steps - 1 if name in TWO_CALLS else num_steps
        if (name, num_steps, spacing) != ("ddim", 1000, "uniform"):
            assert len(steps.variance) == calls


@pytest.mark.parametrize("num_steps, visited", [(4, 4), (6, 7), (3, 4), (9, 10), (600, 999), (1000, 999)])
def test_ddim_visits_what_its_stride_gives(num_steps, visited):
    """As the reference; where it fails, because the stride divides 999, the last of them is 999."""
    timesteps = ddim_timesteps(1000, num_steps)
    assert (len(timesteps), timesteps[-1]) == (visited, 1)
    assert timesteps[0] <= 999


# A target whose solution is known: independent normal values


MEAN, DEVIATION = 0.6, 0.5


def gaussian(inputs: None, z: jax.Array, level: Level) -> tuple[jax.Array, jax.Array]:
    """E[x0 | z_t] for x0 ~ N(MEAN, DEVIATION^2)."""
    variance = (level.signal * DEVIATION) ** 2 + level.noise**2
    x0 = MEAN + level.signal * DEVIATION**2 / variance * (z - level.signal * MEAN)
    return x0, x0


def error_of_the_ode(name: str, num_steps: int) -> float:
    """Error at the last stop before the end, where the solution keeps its distance from the mean in deviations."""
    settings = {"eta": 0.0} if name in WITH_ETA else {}
    steps = make_sampler(name, Span(SCHEDULES["v"], num_steps, 900, "karras"), settings)
    signal, noise = np.asarray(steps.level.signal, float), np.asarray(steps.level.noise, float)
    spread = np.sqrt((signal * DEVIATION) ** 2 + noise**2)
    inner = padded(jax.tree.map(lambda a: a[:-1], steps), 190)  # two calls in each of 95 steps
    z = jnp.full((1, 1, 1, 1), signal[0] * MEAN + spread[0], jnp.float32)
    out = sample(gaussian, None, z, inner, jnp.zeros((len(inner.variance), 1, 1, 1, 1)))
    return abs(float(out[0, 0, 0, 0]) - (signal[-1] * MEAN + spread[-1]))


@pytest.mark.parametrize(
    "name, order",
    [
        ("ddim", 1),
        ("edm_euler", 1),
        ("edm_euler_a", 1),
        ("edm_heun", 2),
        ("edm_dpm_2", 2),
        ("edm_dpm_2_a", 2),
        ("dpm++_m2", 2),
        ("edm_dpm++_2m", 2),
        ("edm_dpm++_2m_sde", 2),
        ("edm_dpm++_2s_a", 2),
        ("edm_dpm++_sde", 2),
        ("edm_dpm++_3m_sde", 2),
        ("edm_lms", 4),
    ],
)
def test_order_of_convergence(name, order):
    """Twice the steps divide the error by 2^order, without fresh noise.

    The parabola of edm_dpm++_3m_sde counts half its second difference, as published: more exact than the line, but no
    third order.
    """
    few, many = error_of_the_ode(name, 48), error_of_the_ode(name, 96)
    assert abs(np.log2(few / many) - order) < 0.25, (few, many)


@pytest.mark.parametrize("name", ["spaced", *WITH_ETA, *WITH_CHURN])
def test_mean_and_variance_of_the_sde(name):
    """The samplers are linear in the start and in each noise here, so one image for each gives the exact moments."""
    settings = {"s_churn": 10.0} if name in WITH_CHURN else {"eta": 1.0} if name in WITH_ETA else {}
    steps = make_sampler(name, Span(SCHEDULES["v"], 400, spacing="karras"), settings)
    rows = len(steps.variance)
    inputs = np.eye(1 + rows, 2 + rows, 1, np.float32)[:, :, None, None, None]
    answers = np.asarray(sample(gaussian, None, jnp.asarray(inputs[0]), steps, jnp.asarray(inputs[1:])))[
        :, 0, 0, 0
    ]
    assert np.any(answers[2:] != answers[0]), "fresh noise matters"
    np.testing.assert_allclose(answers[0], MEAN, atol=2e-3)
    deviation = np.sqrt(np.sum(np.square(answers[1:] - answers[0])))
    np.testing.assert_allclose(deviation, DEVIATION, rtol=0.02)


# Values and programs


def test_one_program_serves_samplers_that_look_back_alike():
    """14 samplers, 3 scales and 2 seeds: 7 programs. Other values, and samplers of the same kind, compile nothing."""
    traces = []

    def model(params: None, x: jax.Array, t: jax.Array, cond: dict) -> jax.Array:
        traces.append(x.shape)
        return toy_model(params, x, t, cond)

    denoiser = Denoiser(model, "eps")
    for name in SAMPLERS:
        for scale in (1.0, 4.0, 7.5):
            for seed in (0, 1):
                steps = make_sampler(name, Span(SCHEDULES["eps"], 5), cfg_scale=scale, rescale_cfg=seed > 0)
                sample(denoiser, toy_inputs(), nhwc(GOLDEN["x_T"]), steps, image_keys(seed, [0, 1]))
    assert len(traces) == 7


def test_settings():
    assert settings_of("edm_heun") == {"s_churn": 0.0, "s_tmin": 0.0, "s_tmax": np.inf, "s_noise": 1.0}
    assert settings_of("edm_lms") == {"order": 4}
    assert settings_of("spaced") == {}
    for settings, message in (
        ({"order": 5}, r"order is 5; allowed are numbers in \[1, 4\]"),
        (
            {"eta": 0.5},
            r"eta is 0.5, but sampler 'edm_lms' has none; leave it out, or use one of \('ddim', 'edm_euler_a'",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            check_settings("edm_lms", settings)
    with pytest.raises(ValueError, match="sampler is 'euler'; use one of"):
        make_sampler("euler", Span(SCHEDULES["v"], 5))


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_setting_changes_the_table(name):
    span = Span(SCHEDULES["v"], 6)
    changed = {"eta": 0.3, "s_churn": 3.0, "s_tmin": 1.0, "s_tmax": 2.0, "s_noise": 0.5, "order": 2}
    noisy = {"s_churn": 1.0} if name in WITH_CHURN else {}
    plain = make_sampler(name, span, noisy)
    for key in settings_of(name):
        other = make_sampler(name, span, noisy | {key: changed[key]})
        assert any((a != b).any() for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(other))), key
