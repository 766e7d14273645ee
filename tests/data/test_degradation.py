from pathlib import Path

import numpy as np
import pytest

from diffbir_jax.data.degradation import FirstOrderConfig, degrade, jpeg
from diffbir_jax.imaging.bytes import resize_bytes
from diffbir_jax.parity.degradation import kernel

GOLDEN = Path(__file__).parents[1] / "golden" / "degradation_gaussian.npz"
# Does next to nothing; tests turn on one degradation each.
NONE = FirstOrderConfig((0.01, 0.01), 1.0, (1.0, 1.0), (0.0, 0.0), (100, 100))


@pytest.fixture(scope="module")
def photo():
    """Grey blocks: JPEG halves the resolution of colours at any quality."""
    blocks = np.random.default_rng(0).integers(30, 220, (6, 8, 1))
    return np.kron(blocks, np.ones((8, 8, 3))).astype(np.uint8)


def test_gaussian_kernels():
    """To the last digits, far below the tolerance of image operations."""
    with np.load(GOLDEN) as golden:
        assert len(golden) == 10
        for key, expected in golden.items():
            np.testing.assert_allclose(kernel(key), expected, rtol=0, atol=1e-12, err_msg=key)


def test_degradation_depends_on_its_generator_only(photo):
    config = FirstOrderConfig()
    first, again, other = (degrade(photo, np.random.default_rng(seed), config) for seed in (1, 1, 2))
    assert (first.shape, first.dtype) == ((12, 16, 3), np.uint8)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize(
    "config",
    [
        FirstOrderConfig((2.0, 2.0), 1.0, (1.0, 1.0), (0.0, 0.0), (100, 100)),
        FirstOrderConfig((0.01, 0.01), 1.0, (1.0, 1.0), (15.0, 15.0), (100, 100)),
        FirstOrderConfig((0.01, 0.01), 1.0, (1.0, 1.0), (0.0, 0.0), (10, 10)),
    ],
    ids=["blur", "noise", "jpeg"],
)
def test_each_degradation_shows(photo, config):
    def error(config):
        out = degrade(photo, np.random.default_rng(0), config)
        return np.abs(out.astype(float) - photo).mean()

    assert error(NONE) < 2 < error(config)


def test_noise_has_its_standard_deviation():
    """JPEG at quality 100 keeps the luma of the noise."""
    config = FirstOrderConfig((0.01, 0.01), 1.0, (1.0, 1.0), (12.0, 12.0), (100, 100))
    flat = np.full((64, 64, 3), 128, np.uint8)
    luma = degrade(flat, np.random.default_rng(0), config) @ np.array([0.299, 0.587, 0.114])
    expected = 12 * np.linalg.norm([0.299, 0.587, 0.114])
    assert luma.std() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("factor", [1.0, 2.5, 4.0, 100.0])
def test_sides_are_divided_and_rounded(photo, factor):
    config = FirstOrderConfig(downscale=(factor, factor))
    shape = degrade(photo, np.random.default_rng(0), config).shape
    assert shape == (max(1, round(48 / factor)), max(1, round(64 / factor)), 3)


def test_colours_keep_their_order():
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 200
    for out in (jpeg(red, 95), degrade(red, np.random.default_rng(0), NONE), resize_bytes(red, (8, 8))):
        assert out[..., 0].min() > 190 and out[..., 1:].max() < 10


def test_upsampling_enlarges_to_height_and_width(photo):
    assert resize_bytes(photo, (96, 32)).shape == (96, 32, 3)
