from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.models.mobilenet import MobileNetV2
from diffbir_jax.training.perceptual import STAGES, load_features, perceptual_loss
from diffbir_jax.weights.safetensors import save_weights
from tests.draws import normal, uniform

# One program for every test.
loss_and_gradient = jax.jit(jax.value_and_grad(perceptual_loss, argnums=1))


@pytest.fixture(scope="module")
def params() -> dict:
    shapes = jax.eval_shape(MobileNetV2(STAGES).init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(_scaled_normal(rng, s.shape), s.dtype), shapes)


def _scaled_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    fan_in = np.prod(shape) / shape[-1]
    return 1.5 * rng.standard_normal(shape) / np.sqrt(fan_in) if len(shape) > 1 else np.zeros(shape)


@pytest.fixture(scope="module")
def images() -> jax.Array:
    return uniform(1, (2, 64, 64, 3), -1.0)


@pytest.mark.slow
def test_equal_images_have_no_distance(params: dict, images: jax.Array) -> None:
    loss, gradient = loss_and_gradient(params, images, images)
    # XLA may fuse the two passes differently, so that features differ in the last bit.
    assert loss < 1e-12
    assert jnp.abs(gradient).max() < 1e-6


@pytest.mark.slow
def test_distance_is_symmetric_bounded_and_grows_with_noise(params: dict, images: jax.Array) -> None:
    noise = normal(2, images.shape)
    weak, strong = (loss_and_gradient(params, images, images + s * noise)[0] for s in (0.05, 0.5))
    assert 0 < weak < strong < 4
    swapped, _ = loss_and_gradient(params, images + 0.5 * noise, images)
    np.testing.assert_allclose(swapped, strong, rtol=1e-5)


def test_gradient_descends(params: dict, images: jax.Array) -> None:
    start = images + 0.3 * normal(2, images.shape)
    before, gradient = loss_and_gradient(params, start, images)
    after, _ = loss_and_gradient(params, start - 1e-2 * gradient / jnp.abs(gradient).max(), images)
    assert jnp.isfinite(gradient).all()
    assert after < before


def test_gradient_is_finite_where_the_features_vanish(images: jax.Array) -> None:
    init = jax.eval_shape(MobileNetV2(STAGES).init, jax.random.key(0), images)["params"]
    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, p.dtype), init)
    _, gradient = loss_and_gradient(zeros, images, -images)
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("other", [(2, 64, 63, 3), (2, 32, 64, 3)])
def test_wrong_shapes_are_refused(params: dict, images: jax.Array, other: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must be \(B, H, W, 3\) with H, W >= 64"):
        perceptual_loss(params, jnp.zeros(other), jnp.zeros(other) if other[1] == 32 else images)


def test_features_are_loaded_whole_or_refused(params: dict, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stage6_0/project/kernel"):
        load_features(save_weights(tmp_path / "f.safetensors", params, {}))


def test_missing_features_name_the_script(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="convert_mobilenet.py"):
        load_features(tmp_path / "absent.safetensors")
