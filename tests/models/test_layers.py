import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import ScopeParamShapeError
from jax import lax

from diffbir_jax.models.apply import apply, init
from diffbir_jax.models.convolution import WIDE, convolve, upsample_convolve, upsample_nearest
from diffbir_jax.models.layers import (
    Dense,
    GroupNorm,
    LayerNorm,
    conv,
    depth_to_space,
    norm,
    space_to_depth,
    timestep_embedding,
)
from tests.draws import normal


def far_from_zero(shape):
    """Values whose mean is a hundred standard deviations away: a one-pass variance loses them in float32."""
    return normal(0, shape) + 100.0


def run(module, x):
    variables = module.init(jax.random.key(1), x)
    count = x.shape[-1]
    scale, bias = jnp.linspace(0.5, 2.0, count), jnp.linspace(-1.0, 1.0, count)
    assert {key: p.shape for key, p in variables["params"].items()} == {"scale": (count,), "bias": (count,)}
    return np.asarray(module.apply({"params": {"scale": scale, "bias": bias}}, x)), np.stack([scale, bias])


@pytest.mark.parametrize("channels, groups", [(64, 32), (48, 16), (5, 1)])
def test_group_norm(channels, groups):
    x = far_from_zero((2, 3, 5, channels))
    out, (scale, bias) = run(GroupNorm(1e-6), x)
    grouped = np.asarray(x, np.float64).reshape(2, 15, groups, -1)
    centred = grouped - grouped.mean((1, 3), keepdims=True)
    expected = centred / np.sqrt(np.square(centred).mean((1, 3), keepdims=True) + 1e-6)
    np.testing.assert_allclose(out, expected.reshape(x.shape) * scale + bias, atol=1e-4)


def test_layer_norm():
    x = far_from_zero((2, 7, 24))
    out, (scale, bias) = run(LayerNorm(), x)
    exact = np.asarray(x, np.float64)
    expected = (exact - exact.mean(-1, keepdims=True)) / np.sqrt(exact.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(out, expected * scale + bias, atol=1e-4)


@pytest.mark.parametrize("norm", [GroupNorm, LayerNorm])
def test_statistics_of_bfloat16_are_float32(norm):
    """The result is the float32 one, rounded once at the end."""
    x = (normal(0, (2, 16, 16, 64)) + 10).astype(jnp.bfloat16)
    half, _ = run(norm(dtype=jnp.bfloat16), x)
    full, _ = run(norm(), x.astype(jnp.float32))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half, full.astype(jnp.bfloat16))


def test_timestep_embedding():
    out = np.asarray(timestep_embedding(jnp.array([0, 7, 999]), 8))
    for row, t in zip(out, (0, 7, 999)):
        angles = [t / 10000 ** (i / 4) for i in range(4)]
        np.testing.assert_allclose(row, [*map(math.cos, angles), *map(math.sin, angles)], atol=1e-4)


def test_folding_pixels():
    x = jnp.arange(2 * 4 * 6 * 3, dtype=jnp.float32).reshape(2, 4, 6, 3)
    folded = space_to_depth(x, 2)
    assert folded.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(folded[1, 1, 2], x[1, 2:4, 4:6].reshape(-1))
    np.testing.assert_array_equal(depth_to_space(folded, 2), x)


def test_upsample_nearest():
    x = jnp.arange(12, dtype=jnp.float32).reshape(1, 2, 3, 2)
    np.testing.assert_array_equal(upsample_nearest(x, 3), np.repeat(np.repeat(x, 3, axis=1), 3, axis=2))


def test_zero_convolution_starts_at_zero():
    x = jnp.ones((1, 4, 4, 3))
    out, _ = conv(5, name="zero", zero=True).init_with_output(jax.random.key(0), x)
    assert out.shape == (1, 4, 4, 5)
    assert not out.any()


@pytest.mark.parametrize(
    "size, stride, padding, shape, features",
    [
        (3, 1, (1, 1), (2, 4, 3, 5), 32),  # fewer pixels than features
        (3, 2, (0, 1), (1, 8, 6, 5), 32),
        (1, 1, (0, 0), (1, 4, 4, 5), 32),
        (3, 1, (1, 1), (2, 16, 12, 5), 7),  # small
        (3, 2, (0, 1), (2, 16, 12, 5), 7),
        (1, 1, (0, 0), (2, 16, 12, 5), 7),
        (3, 1, (1, 1), (1, 130, 128, 5), 7),  # large
        (3, 1, (1, 1), (2, 6, 4, WIDE), WIDE),  # whose kernel's gradient is a product per tap
        (3, 2, (0, 1), (2, 6, 4, WIDE), WIDE),
        (2, 2, (0, 0), (2, 6, 4, WIDE), WIDE),
    ],
)
def test_every_formulation_of_a_convolution_is_the_same(
    size: int, stride: int, padding: tuple[int, int], shape: tuple[int, ...], features: int
) -> None:
    x = normal(0, shape)
    kernel = normal(1, (size, size, shape[-1], features))

    def expected(x: jax.Array, kernel: jax.Array) -> jax.Array:
        layout = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, (stride,) * 2, (padding,) * 2, dimension_numbers=layout)

    check_equal(lambda x, kernel: convolve(x, kernel, stride, padding), expected, x, kernel)


@pytest.mark.parametrize("channels, features", [(5, 7), (5, 100), (WIDE, WIDE)])  # 100: more than pixels
def test_convolution_of_an_enlarged_image(channels: int, features: int) -> None:
    x = normal(0, (2, 6, 4, channels))
    kernel = normal(1, (3, 3, channels, features))
    check_equal(upsample_convolve, lambda x, kernel: convolve(upsample_nearest(x), kernel), x, kernel)


def check_equal(function: Any, expected: Any, x: jax.Array, kernel: jax.Array) -> None:
    """Compare the values and gradients of two convolutions."""
    weights = normal(2, jax.eval_shape(expected, x, kernel).shape)

    def results(function: Any) -> tuple:
        """A program of its own for each: in one, XLA might see that both are the same."""
        return jax.device_get(jax.jit(functools.partial(with_gradients, function))(x, kernel, weights))

    for ours, golden in zip(results(function), results(expected), strict=True):
        np.testing.assert_allclose(ours, golden, atol=1e-5 * np.abs(golden).max())


def with_gradients(function: Any, x: jax.Array, kernel: jax.Array, weights: jax.Array) -> tuple:
    outputs, pull_back = jax.vjp(function, x, kernel)
    return outputs, *pull_back(weights)


def test_layer_normalisation_looks_at_single_pixels() -> None:
    """A change elsewhere changes nothing here; group normalisation would."""
    x = normal(0, (1, 4, 4, 8))
    other = x.at[0, 3, 3].add(5.0)
    for kind, same in (("layer", True), ("group", False)):
        module = norm(kind, name="norm", dtype=jnp.float32)
        params = module.init(jax.random.key(0), x)
        here = [module.apply(params, image)[0, 0, 0] for image in (x, other)]
        assert np.array_equal(*here) == same


def test_parameters_of_another_shape_are_refused() -> None:
    """As Flax does, without tracing the initialisers."""
    module, x = Dense(3), jnp.zeros((1, 4))
    params = init(module, jax.random.key(0), x)
    with pytest.raises(ScopeParamShapeError, match="kernel"):
        apply(module, params | {"kernel": jnp.zeros((4, 5))}, x)
