"""Time is divided among the images in hand."""

import pytest

from diffbir_jax.batch.shares import Shares


def test_time_goes_to_what_is_in_hand_by_weight() -> None:
    now = [100.0]
    shares = Shares(lambda: now[0])
    now[0] = 110.0  # nobody's
    shares.begin(0, 1.0)
    now[0] = 112.0
    shares.begin(1, 3.0)
    now[0] = 116.0
    assert shares.end(0) == pytest.approx(2 + 1)
    now[0] = 117.0
    assert shares.end(1) == pytest.approx(3 + 1)
    now[0] = 150.0  # nobody's
    shares.begin(2, 5.0)
    now[0] = 151.0
    assert shares.end(2) == pytest.approx(1)
