import numpy as np
import pytest

from diffbir_jax.metrics.spread import deviation_map, global_deviation, local_deviation


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
    with pytest.raises(ValueError, match="2 images of shapes"):
        local_deviation([image, image[:1]])
    with pytest.raises(ValueError, match=r"\(3, 1\); \(images, seeds\) with two or more seeds"):
        global_deviation(np.zeros((3, 1)))
    with pytest.raises(ValueError, match="finite"):
        global_deviation(np.array([[1, np.inf]]))


def test_local_deviation_averages_over_pixels_and_channels():
    """Of the population: two values deviate by half of their difference."""
    image = np.full((2, 2, 3), 100, np.uint8)
    other = image.copy()
    other[0, 0, 0] += 51
    assert local_deviation([image, other]) == pytest.approx(0.1 / 12)
    assert local_deviation([image, image, image]) == 0


def test_global_deviation_averages_over_images():
    scores = np.array([[20, 24], [30, 30], [25, 26]])
    assert global_deviation(scores) == pytest.approx((2 + 0 + 0.5) / 3)
