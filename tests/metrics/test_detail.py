"""Spectral distance and local energy correlation: what blur, noise and sharpening do to them."""

import cv2
import numpy as np
import pytest
from skimage import data

from diffbir_jax.metrics import detail

REFERENCE = data.astronaut()[128:384, 128:384]
BLURRED = cv2.GaussianBlur(REFERENCE, (0, 0), 1.5)
NOISE = np.random.default_rng(0).standard_normal(REFERENCE.shape[:2])[..., None]


def with_noise(sigma: float) -> np.ndarray:
    return np.clip(np.rint(BLURRED + sigma * NOISE), 0, 255).astype(np.uint8)


def test_equal_images():
    assert detail.spectral_distance(REFERENCE, REFERENCE) == 0
    assert detail.local_energy_correlation(REFERENCE, REFERENCE) == pytest.approx(1)


def test_scaling_the_contrast_shifts_the_spectrum():
    """Amplitude x 10^-0.25 is power x 10^-0.5 at every frequency."""
    image = np.random.default_rng(1).random((64, 48, 3))
    assert detail.spectral_distance(image * 10**-0.25, image) == pytest.approx(0.5, abs=1e-4)
    assert detail.local_energy_correlation(image * 10**-0.25, image) == pytest.approx(1, abs=1e-3)


def test_white_noise_has_a_flat_spectrum_of_its_variance():
    _, log_power = detail.radial_log_power(0.1 * np.random.default_rng(2).standard_normal((256, 256)))
    np.testing.assert_allclose(log_power[17:].reshape(7, 16).mean(1), -2, atol=0.05)


def test_a_sine_lands_in_its_bin():
    luma = 0.4 * np.sin(2 * np.pi * 0.25 * np.arange(64))[None, :] * np.ones((64, 1))
    frequency, log_power = detail.radial_log_power(luma)
    assert frequency[np.argmax(log_power)] == 0.25
    assert frequency[-1] == 0.5


def test_noise_games_the_spectrum_but_not_the_correlation():
    blurred, noisy = (detail.spectral_distance(image, REFERENCE) for image in (BLURRED, with_noise(4)))
    assert noisy < 0.5 * blurred
    blurred, noisy = (detail.local_energy_correlation(image, REFERENCE) for image in (BLURRED, with_noise(4)))
    assert noisy < blurred - 0.05


def test_a_jump_between_opposite_edges_is_no_detail():
    """A smooth ramp holds no high frequencies, though its left and right edge differ."""
    ramp = np.broadcast_to(np.linspace(0, 1, 128), (128, 128))
    frequency, log_power = detail.radial_log_power(ramp)
    assert log_power[frequency >= 0.25].max() < -7


def test_energy_in_the_wrong_place():
    assert detail.local_energy_correlation(REFERENCE[::-1], REFERENCE) < 0.5


def test_flat_image_has_no_correlation():
    assert detail.local_energy_correlation(np.full_like(REFERENCE, 7), REFERENCE) == 0


def test_errors():
    with pytest.raises(ValueError, match=r"at least 8x8.*\(4, 4, 3\)"):
        detail.spectral_distance(np.zeros((4, 4, 3)), np.zeros((4, 4, 3)))


def test_a_grid_shows_in_its_ratio():
    """Noise has none; steps of height h every 8 pixels add h^2 to the 2 s^2 of noise of variance s^2 there."""
    rng = np.random.default_rng(0)
    noise = [0.5 + 0.05 * rng.standard_normal((256, 256, 1)) * np.ones(3) for _ in range(8)]
    assert detail.grid_ratio(noise, 8) == pytest.approx(1.0, abs=0.02)
    height = 0.04
    steps = height * (np.arange(256) // 8 % 2)
    stepped = [image + (steps[:, None, None] + steps[None, :, None]) for image in noise]
    assert detail.grid_ratio(stepped, 8) == pytest.approx(1 + height**2 / (2 * 0.05**2), rel=0.02)
    assert detail.grid_ratio(stepped, 7) == pytest.approx(1.0, abs=0.05)


def test_a_flat_image_has_no_grid():
    assert detail.grid_ratio([np.full((16, 16, 3), 7, np.uint8)], 4) == 1.0


@pytest.mark.parametrize("period", [1, 16])
def test_a_grid_needs_lines(period):
    with pytest.raises(ValueError, match="period"):
        detail.grid_ratio([np.zeros((16, 16, 3))], period)
