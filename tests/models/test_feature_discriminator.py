import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.models.apply import abstract, apply
from diffbir_jax.models.feature_discriminator import FeatureDiscriminator, smooth
from tests.draws import normal
from tests.models.reference import away_from_zero

MODEL = FeatureDiscriminator(width=8)
SHAPES = [(2, 16, 12, 5), (2, 7, 4, 3), (2, 6)]
FEATURES = [normal(i, shape) for i, shape in enumerate(SHAPES)]


@pytest.fixture(scope="module")
def params() -> dict:
    return away_from_zero(abstract(MODEL, FEATURES))


@pytest.fixture(scope="module")
def logits(params: dict) -> list[jax.Array]:
    return jax.jit(lambda p, x: apply(MODEL, p, x))(params, FEATURES)


def test_one_map_of_logits_per_level(logits):
    assert [x.shape for x in logits] == [(2, 4, 3, 1), (2, 1, 1, 1), (2, 1)]
    assert all(x.dtype == jnp.float32 for x in logits)


def test_bfloat16_stays_close_to_float32(params, logits):
    model = FeatureDiscriminator(8, jnp.bfloat16)
    half = jax.jit(lambda p, x: apply(model, p, x))(params, [x.astype(jnp.bfloat16) for x in FEATURES])
    for low, exact in zip(half, logits):
        assert low.dtype == jnp.float32
        np.testing.assert_allclose(low, exact, atol=0.05 * float(jnp.abs(exact).max()))


def test_full_size_has_the_published_layers():
    sides = [(128, 384), (64, 768), (32, 1536)]
    maps = [jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32) for side, channels in sides]
    shapes = abstract(FeatureDiscriminator(), [*maps, jax.ShapeDtypeStruct((1, 1024), jnp.float32)])
    kernels = {name: layer["kernel"].shape for name, layer in shapes.items()}
    assert kernels["level_2_in"] == (3, 3, 1536, 512) and kernels["level_2_out"] == (1, 1, 512, 1)
    assert kernels["level_3_in"] == (1024, 512) and kernels["level_3_out"] == (512, 1)
    assert len(kernels) == 8


def test_smoothing_keeps_greys_and_removes_the_finest_detail():
    board = jnp.asarray((-1.0) ** np.indices((6, 8)).sum(0), jnp.float32)[None, ..., None]
    point = jnp.asarray(64 * np.outer(np.arange(6) == 3, np.arange(8) == 3), jnp.float32)[None, ..., None]
    images = jnp.concatenate([board, jnp.ones_like(board), point], -1)
    (blurred,) = jax.jit(smooth, static_argnums=1)(images, 1)
    assert blurred.shape == (5, 7, 3)
    np.testing.assert_allclose(blurred[1:-1, 1:-1, 0], np.zeros((3, 5)), atol=1e-7)
    np.testing.assert_allclose(blurred[1:-1, 1:-1, 1], np.ones((3, 5)), rtol=1e-6)
    np.testing.assert_allclose(blurred[1:, 1:5, 2], np.outer([1, 3, 3, 1], [1, 3, 3, 1]), rtol=1e-6)
    np.testing.assert_allclose(blurred[0, 3, 1], 7 / 8, rtol=1e-6)


def test_a_map_without_logits_is_refused(params):
    with pytest.raises(ValueError, match="a map of 3x9 given, sides must be at least 4"):
        jax.eval_shape(lambda x: apply(MODEL, params, x), [jnp.zeros((1, 3, 9, 5)), *FEATURES[1:]])
