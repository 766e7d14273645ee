import numpy as np
import pytest

from diffbir_jax.data.ranges import choose


@pytest.mark.parametrize("size", [1, 3, 4, 9])
def test_choosing_by_shares_is_numpys(size):
    """To the last bit of what is left of the stream, too."""
    shares = np.random.default_rng(size).dirichlet(np.ones(size)).tolist()
    ours, numpys = np.random.default_rng(0), np.random.default_rng(0)
    chosen = [choose(ours, range(size), shares) for _ in range(300)]
    assert chosen == [numpys.choice(size, p=shares) for _ in range(300)]
    assert ours.random() == numpys.random()
