"""FLOPs of a program, counted from its products: convolutions and matrix products of its jaxpr.

They are nearly all of what a network computes. A multiplication and an addition count as two; where a kernel lies over
padding, or over the zeros that a gradient of a strided convolution puts between pixels, nothing counts.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr


class Flops(NamedTuple):
    """FLOPs of one call.

    Attributes:
        total: with every turn of every loop.
        once: with one turn of each loop, as XLA's cost analysis counts.
    """

    total: int
    once: int


def count(jaxpr: Jaxpr | ClosedJaxpr) -> Flops:
    """Count a program's products; gradients and recomputation are part of what `jax.make_jaxpr` returns.

    Of the branches of a condition the dearest counts. A `while` loop counts one turn, as nothing tells how many it has.
    """
    jaxpr = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
    total = once = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name in _PRODUCTS:
            found = Flops(*(_PRODUCTS[name](equation),) * 2)
        else:
            inner = [count(each) for each in _inside(equation.params)]
            merge = max if name == "cond" else sum
            found = Flops(*(merge(column) for column in zip(*inner, strict=True))) if inner else Flops(0, 0)
        total += found.total * (equation.params["length"] if name == "scan" else 1)
        once += found.once
    return Flops(total, once)


def _inside(parameters: dict[str, Any]) -> Iterator[Jaxpr | ClosedJaxpr]:
    """The programs that an equation calls."""
    for value in parameters.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, Jaxpr | ClosedJaxpr):
                yield each


def _dot(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
    return 2 * depth * equation.outvars[0].aval.size


def _convolution(equation: Any) -> int:
    """Batch, features and the input channels that each feature sees, times how often pixels and taps meet."""
    options = equation.params
    image, kernel, out = (variable.aval.shape for variable in (*equation.invars, *equation.outvars))
    layout = options["dimension_numbers"]
    products = out[layout.out_spec[0]] * out[layout.out_spec[1]] * kernel[layout.rhs_spec[1]]
    for axis, (i, k, o) in enumerate(zip(layout.lhs_spec[2:], layout.rhs_spec[2:], layout.out_spec[2:])):
        stride, before = options["window_strides"][axis], options["padding"][axis][0]
        taps = np.arange(kernel[k]) * options["rhs_dilation"][axis] - before
        place = np.arange(out[o])[:, None] * stride + taps[None]
        spread = options["lhs_dilation"][axis]
        products *= int(np.sum((place >= 0) & (place <= (image[i] - 1) * spread) & (place % spread == 0)))
    return 2 * products


_PRODUCTS = {"dot_general": _dot, "conv_general_dilated": _convolution}
