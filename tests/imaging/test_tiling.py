"""Tiles, their weights, and functions applied tile by tile."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from diffbir_jax.imaging.tiling import gaussian_weights, tile_starts, tile_windows, tiled

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "image_ops.npz")


def nhwc(array: np.ndarray) -> Array:
    return jnp.asarray(array.transpose(0, 2, 3, 1))


def contrast(tile: Array) -> Array:
    """Depends on the whole tile; the function of the golden values."""
    return jnp.tanh(tile) * jnp.mean(tile)


def enlarge(tile: Array) -> Array:
    return jnp.repeat(jnp.repeat(tile, 4, axis=1), 4, axis=2) + jnp.mean(tile)


def picture(height: int, width: int, channels: int = 3) -> Array:
    return jnp.asarray(
        np.random.default_rng(height).standard_normal((2, height, width, channels)), jnp.float32
    )


def test_windows_parity():
    np.testing.assert_array_equal(tile_windows(70, 90, 32, 16), GOLDEN["windows|70|90|32|16"])


@pytest.mark.parametrize("side", [32, 64])
def test_weights_parity(side):
    np.testing.assert_allclose(gaussian_weights(side, side), GOLDEN[f"gaussian_weights|{side}"], rtol=1e-12)


@pytest.mark.parametrize("function, key", [(contrast, "tiled|32|16"), (enlarge, "tiled_up4|32|24")])
def test_tiled_parity(function, key):
    size, stride = (int(part) for part in key.split("|")[1:])
    out = jax.jit(lambda x: tiled(function, x, size, stride))(nhwc(GOLDEN["content"]))
    np.testing.assert_allclose(out, nhwc(GOLDEN[key]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("height, width, stride", [(32, 32, 8), (40, 67, 16), (33, 64, 5)])
def test_a_pointwise_function_may_be_tiled(height, width, stride):
    x = picture(height, width)
    np.testing.assert_allclose(tiled(jnp.sin, x, 32, stride), jnp.sin(x), rtol=0, atol=1e-6)


def test_arrays_are_cut_alike():
    x = {"z": picture(40, 48, 4), "hint": picture(40, 48, 2)}
    out = tiled(lambda tile: tile["z"][..., :2] * tile["hint"], x, 16, 8)
    np.testing.assert_allclose(out, x["z"][..., :2] * x["hint"], rtol=0, atol=1e-6)


def test_result_may_be_smaller():
    x = picture(32, 48)

    def means(tile: Array) -> Array:
        return tile.reshape(2, tile.shape[1] // 8, 8, tile.shape[2] // 8, 8, 3).mean((2, 4))

    np.testing.assert_allclose(tiled(means, x, 16, 8), means(x), rtol=0, atol=1e-6)


def test_gradient():
    """Of a pointwise function, the gradient is pointwise as well."""
    x = picture(24, 40)
    weight = picture(24, 40)
    gradient = jax.grad(lambda x: jnp.sum(weight * tiled(jnp.sin, x, 16, 8)))(x)
    np.testing.assert_allclose(gradient, weight * jnp.cos(x), rtol=0, atol=1e-5)


def test_reduced_precision_stays():
    out = tiled(lambda tile: tile, picture(24, 24).astype(jnp.bfloat16), 16, 8)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out, picture(24, 24).astype(jnp.bfloat16))


def test_tiles_are_not_unrolled():
    """The function occurs once in the program for shapes, and once in the loop, however many tiles there are."""
    calls = []

    def function(tile: Array) -> Array:
        calls.append(tile.shape)
        return tile

    jax.jit(lambda x: tiled(function, x, 16, 8))(picture(64, 64))
    assert calls == [(2, 16, 16, 3)] * 2


def test_errors():
    with pytest.raises(ValueError, match="tiles of 32 do not fit into 24; use smaller tiles or none"):
        tiled(contrast, picture(40, 24), 32, 16)
    with pytest.raises(ValueError, match="tiles of 32 given a stride of 33; allowed are 1 to 32"):
        tile_starts(64, 32, 33)
    with pytest.raises(ValueError, match=r"\[\(24, 24\), \(24, 32\)\] cannot be cut alike"):
        tiled(lambda pair: pair[0], (picture(24, 24), picture(24, 32)), 16, 8)
