import numpy as np
import pytest

from diffbir_jax.data.sensor import from_linear, sensor_noise, to_linear

GAINS = (2.2, 1.2, 2.0)


def photo():
    return np.random.default_rng(0).random((40, 56, 3), dtype=np.float32)


def test_development_inverts_what_leads_to_raw():
    np.testing.assert_allclose(from_linear(to_linear(photo())), photo(), atol=1e-5)
    np.testing.assert_array_equal(to_linear(np.float32([-0.1, 1.2])), to_linear(np.float32([0, 1])))


def test_a_quiet_sensor_changes_nothing():
    out = sensor_noise(photo(), np.random.default_rng(0), 0.0, 0.0, GAINS, mosaic=False)
    np.testing.assert_allclose(out, photo(), atol=1e-5)


def test_a_mosaic_costs_detail_but_keeps_flat_colours():
    """Border included, since mirroring keeps the pattern of colours."""
    colour = np.broadcast_to(np.array([0.2, 0.5, 0.7], np.float32), (15, 22, 3))
    quiet = {"shot": 0.0, "read": 0.0, "gains": GAINS}
    np.testing.assert_allclose(sensor_noise(colour, np.random.default_rng(0), **quiet), colour, atol=1e-5)
    assert np.abs(sensor_noise(photo(), np.random.default_rng(0), **quiet) - photo()).mean() > 0.05


@pytest.mark.parametrize("mosaic", [False, True])
def test_the_variance_in_raw_is_linear_in_the_light(mosaic):
    """With a mosaic, at the pixels that see green."""
    shot, read = 0.004, 0.0002
    for level in (0.3, 0.6):
        flat = np.full((200, 200, 3), level, np.float32)
        noisy = sensor_noise(flat, np.random.default_rng(0), shot, read, GAINS, mosaic)
        raw = to_linear(noisy)[::2, 1::2, 1] / GAINS[1]
        light = to_linear(flat)[0, 0, 1] / GAINS[1]
        assert raw.var() == pytest.approx(shot * light + read, rel=0.06)
        assert raw.mean() == pytest.approx(light, rel=0.02)
