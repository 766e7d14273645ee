import numpy as np
import pytest
from scipy import stats

from diffbir_jax.data.poisson import COUNTS, LEVELS, aliases, make_tables, poisson_deviation

WHITES = [1, 2, 16, 100, 256]


@pytest.mark.parametrize("white", WHITES)
def test_tables_hold_the_probabilities_of_poisson(white):
    tables, means = make_tables(white), np.arange(LEVELS) * (white / 255)
    share = tables.share.reshape(LEVELS, COUNTS) / 2**24
    counts = tables.noise.reshape(2, LEVELS, COUNTS) + means[:, None]
    np.testing.assert_allclose(counts, np.rint(counts), atol=2e-5)
    for level, mean in enumerate(means):
        drawn = np.rint(counts[:, level]).astype(int).ravel()
        chances = np.bincount(drawn, np.append(share[level], 1 - share[level]), 600) / COUNTS
        np.testing.assert_allclose(chances, stats.poisson.pmf(np.arange(600), mean), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("level", "white"), [(3, 256), (40, 32), (128, 8), (255, 256)])
def test_draws_have_them(level, white):
    count, mean = 100_000, level / 255 * white
    levels = np.full((count // 4, 4), level, np.uint8)
    draws = poisson_deviation(levels, white, np.random.default_rng(1)) + mean
    kinds = np.arange(int(stats.poisson.ppf(1e-3, mean)), int(stats.poisson.ppf(1 - 1e-3, mean)) + 1)
    observed = [(np.rint(draws) == kind).sum() for kind in kinds]
    expected = count * stats.poisson.pmf(kinds, mean)
    rest = [(count - sum(observed), count - expected.sum())] if count > expected.sum() + 1 else []
    found, wanted = np.array([*zip(observed, expected, strict=True), *rest]).T
    assert stats.chisquare(found, wanted * found.sum() / wanted.sum()).pvalue > 1e-3


def test_every_level_has_its_own_mean():
    levels = np.arange(LEVELS, dtype=np.uint8)[:, None].repeat(2001, 1)  # an odd number of them
    deviation = poisson_deviation(levels, 256, np.random.default_rng(0))
    assert (deviation.shape, deviation.dtype) == (levels.shape, np.float32)
    sigma = np.sqrt(np.arange(LEVELS) * 256 / 255)
    assert (np.abs(deviation.mean(1)) <= 4.5 * sigma / np.sqrt(2001)).all()
    np.testing.assert_allclose(deviation.std(1), sigma, rtol=0.08)


def test_draws_are_independent():
    noise = poisson_deviation(np.full((400, 400), 90, np.uint8), 64, np.random.default_rng(2))
    for other in (np.roll(noise, 1, 0), np.roll(noise, 1, 1), np.roll(noise, 2, 1)):
        assert abs(np.corrcoef(noise.ravel(), other.ravel())[0, 1]) < 0.01


def test_aliases_make_up_what_is_asked_for():
    wanted = np.random.default_rng(0).dirichlet(np.full(7, 0.3), 50)
    share, alias = aliases(wanted)
    found = share + np.stack([np.bincount(a, 1 - s, 7) for s, a in zip(share, alias, strict=True)])
    np.testing.assert_allclose(found / 7, wanted, atol=1e-12)
