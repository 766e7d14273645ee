"""MS-SSIM's scales; tests/peers compares its values with pytorch-msssim."""

import numpy as np
import pytest
from skimage import data

from diffbir_jax.metrics.fidelity import similarity_maps
from diffbir_jax.metrics.multiscale import ms_ssim
from tests.metrics.pictures import softened, with_noise

CHELSEA = data.chelsea()


def test_equal_images():
    assert ms_ssim(CHELSEA, CHELSEA) == pytest.approx(1, abs=1e-12)


def test_the_definition_on_sides_that_halve_four_times():
    """Weighted geometric mean over the scales, of averages over 2^k x 2^k pixels."""
    reference = CHELSEA[:256, :352] / 255
    image = with_noise(CHELSEA, 20)[:256, :352] / 255
    weights = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
    product = np.ones(3)
    for scale, weight in enumerate(weights):
        n = 2**scale
        a, b = (x.reshape(256 // n, n, 352 // n, n, 3).mean((1, 3)) for x in (image, reference))
        luminance, structure = similarity_maps(a, b)
        product *= (structure if scale < 4 else luminance * structure).mean((0, 1)) ** weight
    assert ms_ssim(image, reference) == pytest.approx(product.mean(), abs=1e-12)


def test_grey_is_one_channel():
    grey = CHELSEA[..., 1]
    noisy = with_noise(grey, 30)
    assert 0.5 < ms_ssim(noisy, grey) < 0.99
    assert ms_ssim(noisy, grey) == pytest.approx(ms_ssim(noisy[..., None], grey[..., None]), abs=1e-12)


def test_small_blur_matters_less_than_at_one_scale():
    coffee = data.coffee()
    luminance, structure = similarity_maps(softened(coffee) / 255, coffee[2:-2, 2:-2] / 255)
    assert ms_ssim(softened(coffee), coffee[2:-2, 2:-2]) > (luminance * structure).mean() + 0.03


def test_too_small():
    with pytest.raises(ValueError, match="more than 160 pixels .* 160x300"):
        ms_ssim(CHELSEA[:160, :300], CHELSEA[:160, :300])
    with pytest.raises(ValueError, match="one shape"):
        ms_ssim(CHELSEA, CHELSEA[:200])
