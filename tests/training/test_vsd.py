import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.diffusion.schedule import make_schedule, q_sample, training_target
from diffbir_jax.training.vsd import guided, predict_clean, vsd_direction, vsd_loss
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
