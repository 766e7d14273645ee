"""What the restoration U-Net adds to its input; the shipped model's figures are in tests/test_tiny.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from flax import linen as nn

from diffbir_jax.models.restoration_unet import (
    RESIDUAL_SCALE,
    WINDOW,
    RestorationUNet,
    RestorationUNetConfig,
    local_contrast,
    local_mean,
)


@pytest.mark.parametrize("height, width", [(9, 12), (3, 1)])
def test_the_local_mean_is_the_average_pool_that_does_not_count_padding(height: int, width: int) -> None:
    x = jnp.asarray(np.random.default_rng(0).random((2, height, width, 3), np.float32))
    expected = nn.avg_pool(x, (WINDOW, WINDOW), padding="SAME", count_include_pad=False)
    np.testing.assert_allclose(local_mean(x), expected, rtol=1e-6)


def test_the_direct_filter_is_added_as_far_as_the_gate_is_open() -> None:
    """Its centre tap alone, on pixels less their local mean: that part of the residual is the pixels, scaled."""
    config = RestorationUNetConfig(unshuffle=2, channels=(4, 4), blocks=(1, 1, 1), direct=True)
    module = RestorationUNet(config)
    lq = jnp.asarray(np.random.default_rng(0).random((1, 8, 8, 3), np.float32))
    params = module.init(jax.random.key(0), lq)["params"]
    np.testing.assert_array_equal(module.apply({"params": params}, lq), lq)
    params["direct"]["kernel"] = params["direct"]["kernel"].at[1, 1, :12, :12].set(jnp.eye(12))
    for bias, share in ((-50.0, 0.0), (50.0, 1.0)):
        params["gate"]["bias"] = jnp.full(1, bias)
        detail = local_contrast(lq, 2)[..., :12]
        pixels = rearrange(detail, "b h w (p q c) -> b (h p) (w q) c", p=2, q=2)
        expected = lq + share * RESIDUAL_SCALE * pixels
        np.testing.assert_allclose(module.apply({"params": params}, lq), expected, atol=1e-5)
