"""What comes back of the input's texture."""

import numpy as np
import pytest

from diffbir_jax.restoration.texture import BLOCK, texture_share, with_texture

SIDE = 96
FACTOR = 30.0


def noise(sigma: float, seed: int = 0, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, sigma / 255.0, (side, side, 3)).astype(np.float32)


def test_noise_alone_does_not_come_back() -> None:
    flat = np.full((SIDE, SIDE, 3), 0.5, np.float32)
    image = flat + noise(15.0)
    assert (
        np.abs(with_texture(flat.copy(), image, 1.0, FACTOR) - flat).max() < 0.01 * np.abs(image - flat).max()
    )


def test_texture_beside_flat_regions_comes_back() -> None:
    """Where ten times as much was removed as elsewhere, nearly all of it; elsewhere nothing."""
    image = np.full((SIDE, SIDE, 3), 0.5, np.float32) + noise(2.0)
    image[: SIDE // 2] += np.repeat(noise(40.0, 1)[: SIDE // 2, :, :1], 3, axis=-1)
    clean = np.full((SIDE, SIDE, 3), 0.5, np.float32)
    result = with_texture(clean.copy(), image, 1.0, FACTOR)
    inner = slice(4 * BLOCK, SIDE // 2 - 4 * BLOCK)
    back = np.linalg.norm((result - clean)[inner]) / np.linalg.norm((image - clean)[inner])
    assert 0.9 < back < 1.0
    assert np.abs((result - clean)[SIDE // 2 + 9 * BLOCK :]).max() < 1e-3


def test_the_share_by_hand() -> None:
    """1 - 30 n / e far from where the energy changes, and nothing where it is that of the noise."""
    energy = np.full((64, 64), 1e-4, np.float32)
    energy[32:] = 1e-2
    share = texture_share(energy, np.ones_like(energy, bool), FACTOR)
    expected = 1.0 - (30.0 * 1e-4 + 1.0 / 255.0**2) / 1e-2
    np.testing.assert_allclose(share[48:], expected, rtol=1e-4)
    assert not share[:16].any()


def test_a_smooth_sky_shows_that_there_is_no_noise() -> None:
    """Though many of its blocks have nearly one value: it varies by less than a level."""
    image = np.round(np.full((SIDE, SIDE, 3), 180.0) + 255.0 * noise(0.6)[..., :1]).astype(np.float32) / 255.0
    clean = np.full_like(image, 180.0 / 255.0)
    image[SIDE // 4 :] += noise(20.0)[SIDE // 4 :]
    result = with_texture(clean.copy(), image, 1.0, FACTOR)
    inner = np.s_[SIDE // 4 + 4 * BLOCK :]
    assert np.linalg.norm((result - image)[inner]) < 0.2 * np.linalg.norm((image - clean)[inner])


@pytest.mark.parametrize("width", [4, 30])
@pytest.mark.parametrize("border", ["black", "white", "streaks"])
def test_a_border_without_noise_does_not_bring_noise_back(border: str, width: int) -> None:
    """Nor an area that was filled where the picture was transparent."""
    image = np.full((SIDE, SIDE, 3), 0.5, np.float32) + noise(15.0)
    clean = np.full((SIDE, SIDE, 3), 0.5, np.float32)
    rows = np.random.default_rng(0).random((SIDE, 1, 3), np.float32)
    image[:, :width] = clean[:, :width] = {"black": 0.0, "white": 1.0, "streaks": rows}[border]
    result = with_texture(clean.copy(), image, 1.0, FACTOR)
    inner = np.s_[:, width + 2 * BLOCK :]
    assert np.abs((result - clean)[inner]).max() < 0.01 * np.abs((image - clean)[inner]).max()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("sides", [(1, 1), (3, 70), (300, 7), (257, 40)])
def test_any_size_and_half_the_texture(dtype: type, sides: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*sides, 3), np.uint8)
    clean = np.full((*sides, 3), 0.5, dtype)
    whole, half = (
        with_texture(clean.copy(), image, share, FACTOR).astype(np.float32) for share in (1.0, 0.5)
    )
    assert whole.dtype == np.float32 and np.isfinite(whole).all()
    np.testing.assert_allclose(half - 0.5, (whole - 0.5) / 2, atol=1e-3)


def test_an_image_that_was_left_alone_stays() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    clean = image.astype(np.float32) / 255.0
    np.testing.assert_array_equal(with_texture(clean.copy(), image, 1.0, FACTOR), clean)
