import numpy as np
import pytest

from diffbir_jax.metrics.spread import deviation_map


def test_the_deviation_of_known_noise():
    rng = np.random.default_rng(0)
    scale = np.array([[2.0, 20.0]]).repeat(4, axis=0)[..., None]
    images = [
        np.clip(128 + scale * rng.standard_normal((4, 2, 3)), 0, 255).astype(np.uint8) for _ in range(2000)
    ]
    found = deviation_map(images)
    assert found.shape == (4, 2)
    np.testing.assert_allclose(found, scale[..., 0], rtol=0.06)


def test_two_images():
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    np.testing.assert_allclose(deviation_map([black, white]), 255 / np.sqrt(2), rtol=1e-6)
    np.testing.assert_array_equal(deviation_map([white, white, white]), 0)


def test_what_cannot_be_compared():
    image = np.zeros((2, 2, 3), np.uint8)
    with pytest.raises(ValueError, match="1 images of shapes .* given; two or more of one shape are needed"):
        deviation_map([image])
    with pytest.raises(ValueError, match="2 images of shapes"):
        deviation_map([image, image[:1]])
