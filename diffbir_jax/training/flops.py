"""FLOPs of a program, counted from the convolutions and matrix products of its jaxpr.

These are nearly all of a network's work. A multiplication and an addition count as two. Products with padding do not
count, nor do products with the zeros that the gradient of a strided convolution puts between pixels.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var


class Flops(NamedTuple):
    """FLOPs of one call.

    Attributes:
        total: counts every iteration of every loop.
        once: counts one iteration of each loop, like XLA's cost analysis.
    """

    total: int
    once: int


def count(jaxpr: Jaxpr | ClosedJaxpr) -> Flops:
    """Count a program's products; the jaxpr of `jax.make_jaxpr` includes gradients and recomputation.

    Of a condition, the most expensive branch counts. Of a `while` loop, one iteration counts, because the jaxpr does
    not say how many there are.
    """
    jaxpr = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
    total = once = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name in _PRODUCTS:
            found = Flops(*(_PRODUCTS[name](equation),) * 2)
        else:
            inner = [count(each) for each in _inside(equation)]
            merge = max if name == "cond" else sum
            found = Flops(*(merge(column) for column in zip(*inner, strict=True))) if inner else Flops(0, 0)
        total += found.total * _turns(equation)
        once += found.once * (1 if name == "scan" else _turns(equation))
    return Flops(total, once)


def _turns(equation: JaxprEqn) -> int:
    """How often an equation's program runs, as far as the equation says it."""
    name, parameters = equation.primitive.name, equation.params
    if name == "pallas_call":
        return math.prod(parameters["grid_mapping"].grid)
    if name == "shard_map":
        return parameters["mesh"].size
    return parameters["length"] if name == "scan" else 1


def _inside(equation: JaxprEqn) -> Iterator[Jaxpr | ClosedJaxpr]:
    """Yield the programs that an equation calls: bodies of loops, branches, jitted functions."""
    for value in equation.params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, Jaxpr | ClosedJaxpr):
                yield each


def _shape(variable: Var | Literal) -> tuple[int, ...]:
    """The shape of a product's input or output, which are arrays."""
    assert isinstance(variable.aval, ShapedArray)
    return variable.aval.shape


def _dot(equation: JaxprEqn) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    depth = math.prod(_shape(equation.invars[0])[axis] for axis in contracted)
    return 2 * depth * math.prod(_shape(equation.outvars[0]))


def _convolution(equation: JaxprEqn) -> int:
    """Count batch x features x input channels per feature x pairs of an output pixel and a tap on a real pixel."""
    options = equation.params
    image, kernel, out = map(_shape, (*equation.invars, *equation.outvars))
    layout = options["dimension_numbers"]
    products = out[layout.out_spec[0]] * out[layout.out_spec[1]] * kernel[layout.rhs_spec[1]]
    for axis, (i, k, o) in enumerate(zip(layout.lhs_spec[2:], layout.rhs_spec[2:], layout.out_spec[2:])):
        stride, before = options["window_strides"][axis], options["padding"][axis][0]
        taps = np.arange(kernel[k]) * options["rhs_dilation"][axis] - before
        place = np.arange(out[o])[:, None] * stride + taps[None]
        spread = options["lhs_dilation"][axis]
        # A dilated input holds pixels only at multiples of `spread`; the places between are zeros.
        products *= int(np.sum((place >= 0) & (place <= (image[i] - 1) * spread) & (place % spread == 0)))
    return 2 * products


def _fused_attention(products: int) -> Callable[[JaxprEqn], int]:
    """Count products of queries and keys: two forward; five backward, one of which computes the scores again."""

    def flops(equation: JaxprEqn) -> int:
        (batch, queries, heads, dim), (_, keys, *_) = map(_shape, equation.invars[:2])
        return 2 * products * batch * heads * queries * keys * dim

    return flops


_PRODUCTS = {
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    # cuDNN's, see `models.attention`.
    "dot_product_attention_fwd_wrapper": _fused_attention(2),
    "dot_product_attention_bwd_wrapper": _fused_attention(5),
}
