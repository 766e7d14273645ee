import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.models.apply import abstract
from diffbir_jax.models.discriminator import DiscriminatorConfig, PatchDiscriminator
from tests.draws import uniform
from tests.models.reference import away_from_zero

MODEL = PatchDiscriminator(DiscriminatorConfig(ch=8, layers=2))


@pytest.fixture(scope="module")
def params() -> dict:
    return away_from_zero(abstract(MODEL, jnp.zeros((1, 32, 32, 3))))


@pytest.mark.parametrize(("height", "width"), [(16, 16), (64, 48), (66, 35)])
def test_one_logit_per_patch(params: dict, height: int, width: int) -> None:
    logits = jax.eval_shape(MODEL.apply, {"params": params}, jnp.zeros((2, height, width, 3)))
    assert logits.shape == (2, height // 4 - 2, width // 4 - 2, 1)
    assert logits.dtype == jnp.float32


def test_logits_do_not_depend_on_the_batch(params: dict) -> None:
    images = uniform(1, (3, 32, 32, 3), -1.0)
    apply = jax.jit(lambda x: MODEL.apply({"params": params}, x))
    np.testing.assert_allclose(apply(images)[1:2], apply(images[1:2]), atol=1e-6)


def test_bfloat16_stays_close_to_float32(params: dict) -> None:
    images = uniform(1, (1, 32, 32, 3), -1.0)
    exact = jax.jit(MODEL.apply)({"params": params}, images)
    half = jax.jit(PatchDiscriminator(MODEL.config, jnp.bfloat16).apply)({"params": params}, images)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, exact, atol=0.05 * float(jnp.abs(exact).max()))


def test_short_side_is_refused(params: dict) -> None:
    with pytest.raises(ValueError, match="15x64 given, 2 layers need sides of at least 16"):
        MODEL.apply({"params": params}, jnp.zeros((1, 15, 64, 3)))
