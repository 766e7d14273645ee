"""The Frechet distance against the direct formula and where its value is known."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from diffbir_jax.metrics.frechet import frechet_distance


def features(count: int, dimension: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((dimension, dimension)) / np.sqrt(dimension)
    return rng.standard_normal((count, dimension)) @ mix + rng.standard_normal(dimension)


def directly(a: np.ndarray, b: np.ndarray) -> float:
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    return np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(s + t - 2 * sqrtm(s @ t).real)


def exactly(mean: np.ndarray, deviations: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Rows whose sample mean is `mean` and whose sample covariance is rotation^T diag(deviations^2) rotation."""
    rows = np.random.default_rng(0).standard_normal((50, len(mean)))
    white = np.linalg.qr(rows - rows.mean(0))[0] * np.sqrt(49)
    return white * deviations @ rotation + mean


@pytest.mark.parametrize("shape", [(200, 300, 16), (500, 400, 64)])
def test_the_direct_formula(shape):
    n, m, dimension = shape
    a, b = features(n, dimension, 0), features(m, dimension, 1)
    assert frechet_distance(a, b) == pytest.approx(directly(a, b), rel=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)


def test_covariances_that_commute():
    """|m_a - m_b|^2 + the sum of (s_a - s_b)^2 over the common axes."""
    rng = np.random.default_rng(2)
    rotation = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    (mean_a, mean_b), (s, t) = rng.standard_normal((2, 8)), rng.uniform(0.01, 3, (2, 8))
    wanted = np.sum((mean_a - mean_b) ** 2) + np.sum((s - t) ** 2)
    found = frechet_distance(exactly(mean_a, s, rotation), exactly(mean_b, t, rotation))
    assert found == pytest.approx(wanted, rel=1e-12)


def test_fewer_images_than_features():
    """Singular covariances, on which the root of a matrix loses half of the digits: two rows each are two segments."""
    a, b = np.zeros((2, 100)), np.zeros((2, 100))
    a[1, 0], b[1, 1] = 2, 4
    assert frechet_distance(a, b) == pytest.approx(1**2 + 2**2 + 2**2 / 2 + 4**2 / 2, rel=1e-12)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-12)


def test_equal_sets():
    a = features(300, 64, 3)
    assert 0 <= frechet_distance(a, a[::-1]) < 1e-10


def test_errors_say_what_is_wrong():
    a = features(10, 4, 0)
    with pytest.raises(ValueError, match=r"shape \(1, 4\)"):
        frechet_distance(a[:1], a)
    with pytest.raises(ValueError, match=r"shape \(4,\)"):
        frechet_distance(a, a[0])
    with pytest.raises(ValueError, match="4 and 3 features"):
        frechet_distance(a, a[:, :3])
    with pytest.raises(ValueError, match="finite"):
        frechet_distance(a, np.where(a == a[0, 0], np.nan, a))
