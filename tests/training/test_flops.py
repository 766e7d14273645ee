"""The count of FLOPs that `train/mfu` is made of, and that benchmarks compare the compiler's with."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from diffbir_jax.training.flops import Flops, count


def counted(function, *shapes) -> Flops:
    return count(jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes)))


def conv(x, kernel, stride=1, padding="VALID", groups=1):
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=layout, feature_group_count=groups
    )


def test_matrix_products_forward_and_backward() -> None:
    """Both gradients of a product cost what the product does; batched axes multiply."""
    one = 2 * 3 * 5 * 7 * 11

    def loss(a, b):
        return jnp.sin(jnp.einsum("nij,njk->nik", a, b)).sum()

    assert counted(loss, (3, 5, 7), (3, 7, 11)) == Flops(one, one)
    assert counted(jax.grad(loss), (3, 5, 7), (3, 7, 11)).total == 2 * one
    assert counted(jax.grad(loss, argnums=(0, 1)), (3, 5, 7), (3, 7, 11)).total == 3 * one


@pytest.mark.parametrize("stride, side", [(1, 6), (2, 3)])
def test_convolutions_forward_and_backward(stride: int, side: int) -> None:
    """Gradients of a strided convolution do not count the zeros between its pixels."""
    shapes, one = ((2, 8, 8, 4), (3, 3, 4, 6)), 2 * 2 * side**2 * 9 * 4 * 6

    def loss(x, kernel):
        return jnp.sin(conv(x, kernel, stride)).sum()

    assert counted(loss, *shapes).total == one
    assert counted(jax.grad(loss, argnums=(0, 1)), *shapes).total == 3 * one


def test_padding_is_free() -> None:
    """Along an axis of 4 pixels, 3 taps of a padded convolution meet 10 pixels, not 12."""
    assert counted(lambda x, k: conv(x, k, 1, "SAME"), (1, 4, 4, 1), (3, 3, 1, 1)).total == 2 * 10**2


def test_a_group_sees_its_own_channels() -> None:
    assert counted(lambda x, k: conv(x, k, groups=4), (1, 5, 5, 8), (3, 3, 2, 8)).total == 2 * 9 * 9 * 2 * 8


def test_what_is_called_counts_and_loops_count_by_turns() -> None:
    one = 2 * 4**3

    def loop(x):
        return lax.scan(lambda c, _: (jnp.tanh(jax.jit(jnp.dot)(c, x)), None), x, None, length=5)[0]

    assert counted(loop, (4, 4)) == Flops(5 * one, one)

    def branches(x):
        return lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

    assert counted(branches, (4, 4)).total == 2 * one


def test_recomputation_counts() -> None:
    def loss(x):
        return jnp.sin(jnp.sin(x @ x) @ x).sum()

    plain, again = (counted(jax.grad(f), (4, 4)).total for f in (loss, jax.checkpoint(loss)))
    assert again - plain == 2 * (2 * 4**3)


def test_xla_agrees_on_a_network() -> None:
    """XLA counts the same products, and the few element-wise operations beside them."""

    def loss(x, kernel, w):
        return jnp.sin(jnp.sin(conv(x, kernel, 2, "SAME")).reshape(2, -1, 32) @ w).sum()

    shapes = tuple(jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2, 16, 16, 16), (3, 3, 16, 32), (32, 32)))
    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    xla = gradients.lower(*shapes).compile().cost_analysis()
    assert xla is not None
    assert 1.0 <= xla["flops"] / count(jax.make_jaxpr(gradients)(*shapes)).total < 1.05
