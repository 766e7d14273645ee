from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.models.apply import apply, init
from diffbir_jax.models.convolution import convolve
from diffbir_jax.models.layers import Dense, conv
from diffbir_jax.models.lora import adapted, merge
from diffbir_jax.parity import networks
from diffbir_jax.parity.lora import HYPIR
from tests.draws import normal

# How far a branch beside a kernel may be from the merged kernel, of the largest value.
SAME = 4e-6
BASE = {
    "block": {"conv": {"kernel": normal(0, (3, 3, 4, 6)), "bias": normal(1, (6,))}},
    "dense": {"kernel": normal(2, (5, 7))},
    "norm": {"scale": normal(3, (4,))},
}
LORA = {
    "block": {"conv": {"a": normal(4, (3, 3, 4, 2)), "b": normal(5, (2, 6))}},
    "dense": {"a": normal(6, (5, 2)), "b": normal(7, (2, 7))},
}


@pytest.fixture(scope="module")
def merged() -> dict:
    return jax.jit(merge, static_argnums=2)(BASE, LORA, 0.5)


def test_a_merged_convolution_is_the_sum_of_both_branches(merged):
    x, factors = normal(8, (2, 6, 5, 4)), LORA["block"]["conv"]
    branch = convolve(convolve(x, factors["a"]), factors["b"][None, None], padding=(0, 0))
    wanted = convolve(x, BASE["block"]["conv"]["kernel"]) + 0.5 * branch
    np.testing.assert_allclose(convolve(x, merged["block"]["conv"]["kernel"]), wanted, atol=1e-4)


def test_a_merged_dense_layer_is_the_sum_of_both_branches(merged):
    x, factors = normal(9, (3, 5)), LORA["dense"]
    wanted = x @ BASE["dense"]["kernel"] + 0.5 * (x @ factors["a"] @ factors["b"])
    np.testing.assert_allclose(x @ merged["dense"]["kernel"], wanted, atol=1e-5)


def test_all_else_stays(merged):
    assert jax.tree.structure(merged) == jax.tree.structure(BASE)
    np.testing.assert_array_equal(merged["block"]["conv"]["bias"], BASE["block"]["conv"]["bias"])
    np.testing.assert_array_equal(merged["norm"]["scale"], BASE["norm"]["scale"])


def test_only_the_lora_gets_a_gradient_and_16_bit_kernels_are_widened():
    base = jax.tree.map(lambda x: x.astype(jnp.bfloat16), BASE)
    result = merge(base, LORA, 0.5)
    assert result["dense"]["kernel"].dtype == jnp.float32 and result["norm"]["scale"].dtype == jnp.bfloat16
    gradient = jax.jit(jax.grad(lambda lora: jnp.sum(merge(base, lora, 0.5)["dense"]["kernel"])))(LORA)
    np.testing.assert_allclose(
        gradient["dense"]["b"], np.repeat(0.5 * LORA["dense"]["a"].sum(0)[:, None], 7, 1), rtol=1e-5
    )
    assert not jnp.any(gradient["block"]["conv"]["a"])


def test_a_lora_of_another_network_is_refused():
    with pytest.raises(ValueError, match="LoRA of block/other, which the network lacks"):
        merge(BASE, {"block": {"other": LORA["dense"]}}, 1.0)


class Three(nn.Module):
    """A convolution with a stride, an enlarging one and a dense layer."""

    @nn.compact
    def __call__(self, x):
        y = conv(4, stride=2, name="down")(x)
        y = conv(4, name="up", upsample=True)(y, (x.shape[1], x.shape[2]))
        return Dense(3, name="out")(y)


def test_a_branch_beside_the_kernels_equals_merged_kernels():
    x = normal(10, (2, 7, 6, 3))
    params = init(Three(), jax.random.key(0), x)
    shapes = {"down": (3, 3, 3, 2), "up": (3, 3, 4, 2), "out": (4, 2)}
    widths = {"down": 4, "up": 4, "out": 3}
    lora = {
        name: {"a": normal(20 + i, shape), "b": normal(30 + i, (2, widths[name]))}
        for i, (name, shape) in enumerate(shapes.items())
    }
    lora["up"]["alpha"] = jnp.float32(6.0)  # a factor 3 on top of the scale
    with adapted(lora, 0.5):
        beside = apply(Three(), params, x)
    wanted = apply(Three(), merge(params, lora, 0.5), x)
    assert np.abs(beside - wanted).max() <= SAME * np.abs(wanted).max()
    assert np.abs(beside - apply(Three(), params, x)).max() > 1


@pytest.mark.slow
def test_a_branch_beside_the_unet_equals_the_merged_unet():
    """HYPIR's LoRA on the UNet of the goldens, 257 layers, in doubles but for the normalisation.

    In float32 rounding alone is as large as the tolerance, and differs from machine to machine.
    """
    # Normalisation stays in float32.
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        double = partial(jax.tree.map, lambda x: jnp.asarray(np.asarray(x), jnp.float64))
        module = networks.module("unet", "small").clone(dtype=jnp.float64)
        unet, lora = double(networks.weights("unet", "small", "a")), double(HYPIR.weights("a"))
        z, context = double((normal(40, (1, 8, 8, 4)), normal(41, (1, 77, 64))))
        run = jax.jit(lambda params: apply(module, params, z, jnp.full(1, 200, jnp.int32), context))
        wanted, plain = run(HYPIR.merged(unet, lora)), run(unet)
        with adapted(lora, HYPIR.scale):
            beside = jax.jit(lambda params: apply(module, params, z, jnp.full(1, 200, jnp.int32), context))(
                unet
            )
    assert np.abs(beside - wanted).max() <= SAME * np.abs(wanted).max()
    assert np.abs(plain - wanted).max() > 0.1 * np.abs(wanted).max()


def test_a_modulation_is_one_matrix_per_image():
    x, factors = normal(11, (2, 5, 5, 3)), {"a": normal(12, (3, 2)), "b": normal(13, (2, 4))}
    matrices = normal(14, (2, 2, 2))
    dense = Dense(4, name="only")
    params = init(dense, jax.random.key(0), x)
    with adapted(factors, 2.0, lambda path: matrices):
        found = apply(dense, params, x)
    branch = jnp.stack([x[i] @ factors["a"] @ matrices[i] @ factors["b"] for i in range(2)])
    np.testing.assert_allclose(found, apply(dense, params, x) + 2.0 * branch, rtol=1e-4, atol=1e-4)
