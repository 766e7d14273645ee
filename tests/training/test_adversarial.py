"""Multilevel GAN losses: their values where these are known; the golden values are in `test_golden.py`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.training.adversarial import discriminator_loss, fake_loss, generator_loss, real_loss
from tests.draws import normal

LOGITS = [normal(0, (3, 4, 5, 1)), normal(1, (3, 2, 2, 1)), normal(2, (3, 1))]
OTHERS = [normal(3 + i, x.shape) for i, x in enumerate(LOGITS)]


def constant(value: float) -> list[jax.Array]:
    return [jnp.full_like(x, value) for x in LOGITS]


def entropy(label: float, probability: float) -> float:
    return -label * np.log(probability) - (1 - label) * np.log(1 - probability)


def test_the_sigmoid_loss_is_the_cross_entropy_of_each_level():
    logit = float(np.log(0.3 / 0.7))
    for loss, label in ((generator_loss, 0.8), (real_loss, 0.8), (fake_loss, 0.0)):
        np.testing.assert_allclose(loss(constant(logit)), np.full(3, 3 * entropy(label, 0.3)), rtol=1e-6)


def test_the_label_of_real_images_is_the_optimum():
    gradient = jax.jit(jax.grad(lambda x: real_loss(x).sum()))(constant(float(np.log(0.8 / 0.2))))
    for level in gradient:
        np.testing.assert_allclose(level, jnp.zeros_like(level), atol=1e-7)


def test_hinge_losses_end_at_the_margin():
    for loss, beyond, wrong in ((real_loss, 1.5, -2.0), (fake_loss, -1.5, 2.0)):
        np.testing.assert_array_equal(loss(constant(beyond), kind="hinge"), np.zeros(3))
        np.testing.assert_allclose(loss(constant(wrong), kind="hinge"), np.full(3, 9.0))
    np.testing.assert_allclose(generator_loss(constant(2.0), kind="hinge"), np.full(3, -6.0))


@pytest.mark.parametrize("kind", ["sigmoid", "hinge"])
def test_levels_count_the_same_and_images_are_independent(kind):
    whole = discriminator_loss(LOGITS, OTHERS, kind=kind)
    levels = [discriminator_loss([x], [y], kind=kind) for x, y in zip(LOGITS, OTHERS)]
    np.testing.assert_allclose(whole, sum(levels), rtol=1e-6)
    alone = discriminator_loss([x[1:2] for x in LOGITS], [y[1:2] for y in OTHERS], kind=kind)
    np.testing.assert_allclose(whole[1:2], alone, rtol=1e-6)
    np.testing.assert_allclose(whole, real_loss(LOGITS, kind=kind) + fake_loss(OTHERS, kind=kind), rtol=1e-6)


def test_large_logits_of_16_bits_stay_finite():
    half = [x.astype(jnp.bfloat16) for x in constant(1e4)]
    loss = discriminator_loss(half, half)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, np.full(3, 3 * (0.2 + 1) * float(half[0].ravel()[0])), rtol=1e-6)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="kind is 'wgan', allowed are sigmoid, hinge"):
        generator_loss(LOGITS, kind="wgan")
    with pytest.raises(ValueError, match="no logits given"):
        generator_loss([])
    with pytest.raises(ValueError, match=r"\(3, 1\)\] \(real\) and .* \(fake\): both must be the same"):
        discriminator_loss(LOGITS, OTHERS[:2])
