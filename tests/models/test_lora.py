import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.models.layers import convolve
from diffbir_jax.models.lora import merge
from tests.draws import normal

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
