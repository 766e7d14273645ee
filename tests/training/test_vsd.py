import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.diffusion.schedule import make_schedule, q_sample, training_target
from diffbir_jax.training import distillation
from diffbir_jax.training.vsd import guided, predict_clean, regulariser_loss, vsd_direction, vsd_loss
from tests.draws import normal

LATENTS, REAL, FAKE, NOISE = (normal(i, (2, 4, 6, 3)) for i in range(4))
T = jnp.asarray([50, 700], jnp.int32)


@pytest.mark.parametrize("parameterization", ["eps", "v"])
def test_the_loss_compares_what_both_scores_predict(parameterization):
    """Scores whose clean latents are known: the gradient is the direction between these."""
    schedule = make_schedule(parameterization=parameterization)

    def score(clean: jax.Array):
        def output(z_t: jax.Array, t: jax.Array) -> jax.Array:
            # The noise that, with `clean`, makes up z_t.
            zero = jnp.zeros_like(clean)
            signal, sigma = q_sample(schedule, clean, t, zero), q_sample(schedule, zero, t, zero + 1)
            return training_target(schedule, clean, t, (z_t - signal) / sigma)

        return output

    loss, gradient = jax.jit(
        jax.value_and_grad(lambda z: vsd_loss(schedule, score(REAL), score(FAKE), z, T, NOISE))
    )(LATENTS)
    direction, weight = vsd_direction(LATENTS, REAL, FAKE)
    np.testing.assert_allclose(loss, jnp.mean(jnp.square(direction)), rtol=1e-3)
    np.testing.assert_allclose(gradient, 2 * direction / direction.size, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(weight[:, 0, 0, 0], np.abs(LATENTS - REAL).mean((1, 2, 3)), rtol=1e-6)


def test_the_regulariser_learns_the_noise_and_leaves_the_latents_alone():
    """The error of a network that gives the noise times a factor is known; the latents get no gradient."""
    schedule = make_schedule()

    def loss(factor: jax.Array, latents: jax.Array) -> jax.Array:
        return regulariser_loss(schedule, lambda z, t: factor * NOISE, latents, T, NOISE)

    value, (slope, still) = jax.jit(jax.value_and_grad(loss, (0, 1)))(jnp.float32(3.0), LATENTS)
    np.testing.assert_allclose(value, 4 * np.mean(np.square(NOISE)), rtol=1e-6)
    np.testing.assert_allclose(slope, 4 * np.mean(np.square(NOISE)), rtol=1e-6)
    assert not jnp.any(still)


def test_the_real_score_is_guided_and_the_fake_one_is_not(monkeypatch):
    """In place of the network: its input plus the prompt's mean."""

    def apply(module, params, z, t, context):
        return z if context is None else z + context.mean((1, 2))[:, None, None, None]

    monkeypatch.setattr(distillation, "apply", apply)
    both = distillation.Distillation(make_schedule(), None, 1.0, 7.5)
    context, negative = (jnp.full((2, 3, 4), value) for value in (1.0, -1.0))
    real, fake = both.real({}, context, negative)(LATENTS, T), both.fake({}, {}, context)(LATENTS, T)
    np.testing.assert_allclose(real, LATENTS + 14.0, rtol=1e-5)
    np.testing.assert_allclose(fake, LATENTS + 1.0, rtol=1e-6)
    np.testing.assert_array_equal(both.real({}, None, None)(LATENTS, T), LATENTS)


def test_equal_scores_leave_the_latents_alone():
    schedule = make_schedule()
    loss, gradient = jax.jit(
        jax.value_and_grad(lambda z: vsd_loss(schedule, lambda z, t: z, lambda z, t: z, z, T, NOISE))
    )(LATENTS)
    assert loss == 0 and not jnp.any(gradient)


def test_scores_get_no_gradient():
    schedule = make_schedule()

    def loss(scale: jax.Array) -> jax.Array:
        return vsd_loss(schedule, lambda z, t: scale * z, lambda z, t: 2 * scale * z, LATENTS, T, NOISE)

    value, gradient = jax.value_and_grad(loss)(jnp.float32(0.5))
    assert value > 0 and gradient == 0


def test_clean_latents_of_the_true_noise_and_guidance():
    schedule = make_schedule()
    z_t = q_sample(schedule, LATENTS, T, NOISE)
    np.testing.assert_allclose(predict_clean(schedule, z_t, NOISE, T), LATENTS, atol=1e-5)
    np.testing.assert_allclose(guided(REAL, FAKE, 1.0), REAL, atol=1e-6)
    np.testing.assert_allclose(guided(REAL, FAKE, 7.5), 7.5 * REAL - 6.5 * FAKE, atol=1e-5)
