"""The local mean that the restoration U-Net subtracts; the shipped model's figures are in tests/test_tiny.py."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from diffbir_jax.models.restoration_unet import WINDOW, local_mean


@pytest.mark.parametrize("height, width", [(9, 12), (3, 1)])
def test_the_local_mean_is_the_average_pool_that_does_not_count_padding(height: int, width: int) -> None:
    x = jnp.asarray(np.random.default_rng(0).random((2, height, width, 3), np.float32))
    expected = nn.avg_pool(x, (WINDOW, WINDOW), padding="SAME", count_include_pad=False)
    np.testing.assert_allclose(local_mean(x), expected, rtol=1e-6)
