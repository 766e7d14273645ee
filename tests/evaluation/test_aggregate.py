import numpy as np
import pytest
from scipy import stats

from diffbir_jax.evaluation import aggregate
from diffbir_jax.evaluation.aggregate import interval, resampled_means, summarise


def test_resampled_means_have_the_moments_of_means():
    values = np.random.default_rng(1).gamma(2.0, size=50)
    means = resampled_means(values)
    assert means.shape == (10_000,)
    # Five standard errors of 10,000 draws.
    spread = values.std() / np.sqrt(50)
    assert abs(means.mean() - values.mean()) < 5 * spread / 100
    assert means.std() == pytest.approx(spread, rel=5 / np.sqrt(2 * 10_000))


def test_two_values_have_a_known_interval():
    """A resample of 0 and 1 has mean 0, 1/2 or 1 with chances 1/4, 1/2, 1/4."""
    means = resampled_means(np.array([0.0, 1.0]))
    np.testing.assert_allclose([(means == x).mean() for x in (0, 0.5, 1)], [0.25, 0.5, 0.25], atol=0.02)
    assert interval(np.array([0.0, 1.0])) == (0.0, 1.0)


def test_intervals_agree_with_scipy():
    values = np.random.default_rng(2).normal(30, 3, size=80)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(3)
    ).confidence_interval
    tenth = 0.1 * values.std() / np.sqrt(80)
    np.testing.assert_allclose(interval(values), expected, atol=tenth)


def test_blocks_make_as_many_resamples(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(aggregate, "_BLOCK", 7 * 3000)
    means = resampled_means(np.arange(7.0))
    assert means.shape == (10_000,)
    assert len(np.unique(means)) > 30


def test_scores_that_are_no_numbers_do_not_count():
    found = summarise([1.0, None, 3.0, float("inf"), float("nan")])
    assert found is not None
    assert (found.mean, found.count) == (2.0, 2)
    assert found == summarise([1.0, 3.0])
    assert summarise([None]) is None
    one = summarise([5.0])
    assert one is not None
    assert (one.mean, one.low, one.high, one.count) == (5.0, None, None, 1)
