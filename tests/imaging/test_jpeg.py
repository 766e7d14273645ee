from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.data.operations import jpeg as codec
from diffbir_jax.imaging.jpeg import diff_jpeg

GOLDEN = Path(__file__).parents[1] / "golden" / "degradation.npz"
jpeg = jax.jit(diff_jpeg, static_argnames="differentiable")


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return {key: file[key] for key in file if key == "image" or key.startswith("diffjpeg")}


@pytest.fixture
def photo() -> np.ndarray:
    """(1, 37, 50, 3): smooth, and of no multiple of 16."""
    noise = np.random.default_rng(0).uniform(0, 1, (37, 50, 3)).astype(np.float32)
    return cv2.GaussianBlur(noise, (0, 0), 3)[None] * 2 - 0.5


@pytest.mark.parametrize("quality", [10, 30, 60, 95])
def test_equals_the_reference(golden: dict[str, np.ndarray], quality: int) -> None:
    """Far within a level (0.004): no coefficient is rounded the other way."""
    out = jpeg(golden["image"].transpose(0, 2, 3, 1), float(quality), differentiable=False)
    expected = golden[f"diffjpeg|{quality}"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5)


def test_soft_rounding_equals_the_reference(golden: dict[str, np.ndarray]) -> None:
    out = jpeg(golden["image"].transpose(0, 2, 3, 1), 60.0, differentiable=True)
    expected = golden["diffjpeg_differentiable|60"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("quality", [20, 50, 80])
def test_errs_about_as_much_as_a_real_codec(golden: dict[str, np.ndarray], quality: int) -> None:
    """Not the same errors: the table is transposed and chroma is enlarged in another way."""
    photos = np.rint(255 * golden["image"].transpose(0, 2, 3, 1)) / np.float32(255)
    ours = jpeg(photos, float(quality), differentiable=False)
    real = np.stack([codec(photo, quality) for photo in photos])
    assert (ours - photos).std() == pytest.approx((real - photos).std(), rel=0.1)


def test_each_image_has_its_quality(photo: np.ndarray) -> None:
    photos = jnp.repeat(photo, 2, axis=0)
    both = jpeg(photos, jnp.array([15.0, 90.0]), differentiable=False)
    for image, quality in zip(both, (15.0, 90.0)):
        np.testing.assert_allclose(image, jpeg(photo, quality, differentiable=False)[0], atol=1e-6)


def test_another_quality_compiles_nothing(photo: np.ndarray, compilations: list[str]) -> None:
    fresh = jax.jit(diff_jpeg)
    fresh(photo, 30.0)
    compilations.clear()
    fresh(photo, 80.0)
    assert not compilations


def test_gradients_are_those_of_finite_differences(photo: np.ndarray) -> None:
    """Along a random direction; a coarse table keeps coefficients from ties, where the function jumps."""
    photo = np.clip(photo[:, :16, :16], 0.2, 0.8)
    direction, weight = np.random.default_rng(1).standard_normal((2, *photo.shape)).astype(np.float32)

    @jax.jit
    def value(step: jax.Array) -> jax.Array:
        return jnp.vdot(weight, diff_jpeg(photo + step * direction, 10.0))

    step = 2e-3
    numeric = (value(step) - value(-step)) / (2 * step)
    assert jax.grad(value)(0.0) == pytest.approx(float(numeric), rel=0.02)
    assert abs(float(numeric)) > 0.01


def test_hard_rounding_has_no_gradient(photo: np.ndarray) -> None:
    gradient = jax.grad(lambda x: jnp.sum(diff_jpeg(x, 50.0, differentiable=False) ** 2))(photo)
    assert not np.any(gradient)
