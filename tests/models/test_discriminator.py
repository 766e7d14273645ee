import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.models.discriminator import DiscriminatorConfig, PatchDiscriminator

MODEL = PatchDiscriminator(DiscriminatorConfig(ch=8, layers=2))


@pytest.fixture(scope="module")
def params() -> dict:
    return jax.jit(MODEL.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]


@pytest.mark.parametrize(("height", "width"), [(16, 16), (64, 48), (66, 35)])
def test_one_logit_per_patch(params: dict, height: int, width: int) -> None:
    logits = jax.eval_shape(MODEL.apply, {"params": params}, jnp.zeros((2, height, width, 3)))
    assert logits.shape == (2, height // 4 - 2, width // 4 - 2, 1)
    assert logits.dtype == jnp.float32


def test_logits_do_not_depend_on_the_batch(params: dict) -> None:
    images = jax.random.uniform(jax.random.key(1), (3, 32, 32, 3), minval=-1.0, maxval=1.0)
    apply = jax.jit(lambda x: MODEL.apply({"params": params}, x))
    np.testing.assert_allclose(apply(images)[1:2], apply(images[1:2]), atol=1e-6)


def test_bfloat16_stays_close_to_float32(params: dict) -> None:
    images = jax.random.uniform(jax.random.key(1), (1, 32, 32, 3), minval=-1.0, maxval=1.0)
    exact = MODEL.apply({"params": params}, images)
    half = PatchDiscriminator(MODEL.config, jnp.bfloat16).apply({"params": params}, images)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, exact, atol=0.05 * float(jnp.abs(exact).max()))


def test_short_side_is_refused(params: dict) -> None:
    with pytest.raises(ValueError, match="15x64 given, 2 layers need sides of at least 16"):
        MODEL.apply({"params": params}, jnp.zeros((1, 15, 64, 3)))
