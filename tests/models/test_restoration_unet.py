"""What the restoration U-Net adds to its input; the shipped model's figures are in tests/test_tiny.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from diffbir_jax.models.apply import abstract
from diffbir_jax.models.restoration_unet import (
    WINDOW,
    RestorationUNet,
    RestorationUNetConfig,
    local_mean,
)
from tests.models.reference import away_from_zero


@pytest.mark.parametrize("height, width", [(9, 12), (3, 1)])
def test_the_local_mean_is_the_average_pool_that_does_not_count_padding(height: int, width: int) -> None:
    x = jnp.asarray(np.random.default_rng(0).random((2, height, width, 3), np.float32))
    expected = nn.avg_pool(x, (WINDOW, WINDOW), padding="SAME", count_include_pad=False)
    np.testing.assert_allclose(local_mean(x), expected, rtol=1e-6)


def test_as_many_levels_as_widths() -> None:
    """Three levels: sides are multiples of twice two halvings; untrained, the network returns its input."""
    config = RestorationUNetConfig(unshuffle=2, channels=(4, 6, 8), blocks=(1, 2, 1, 2, 1))
    module = RestorationUNet(config)
    assert config.multiple == 8
    lq = jnp.asarray(np.random.default_rng(0).random((1, 16, 8, 3), np.float32))
    params = module.init(jax.random.key(0), lq)["params"]
    np.testing.assert_array_equal(module.apply({"params": params}, lq), lq)
    assert {name for name in params if name.startswith("level1")} == {
        "level1_encoder_0", "level1_encoder_1", "level1_down", "level1_up", "level1_decoder_0", "level1_decoder_1"
    }  # fmt: skip
    assert params["level1_down"]["kernel"].shape == (2, 2, 6, 8)
    assert params["up"]["kernel"].shape == (1, 1, 6, 16)


def test_every_level_reaches_the_result() -> None:
    """With weights away from zero, each parameter changes the result."""
    module = RestorationUNet(RestorationUNetConfig(unshuffle=2, channels=(4, 6, 8), blocks=(1, 1, 1, 1, 1)))
    lq = jnp.asarray(np.random.default_rng(0).random((1, 16, 16, 3), np.float32))
    params = away_from_zero(abstract(module, lq))
    gradient = jax.grad(lambda params: jnp.sum(module.apply({"params": params}, lq) ** 2))(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert jnp.any(leaf != 0), path


def test_blocks_that_do_not_fit_the_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="3 numbers of blocks for 3 levels; 5 are needed"):
        RestorationUNetConfig(channels=(4, 6, 8), blocks=(1, 1, 1))
