"""Group normalisation of an image that a network sees in tiles: by the statistics of the whole image.

A tile normalised by its own statistics differs from the same part of the whole image. So passes over all tiles measure
the image's statistics in every layer. In the first pass tiles use their own statistics. It measures the first layer,
whose input is the same as in the whole image. The next pass uses this measurement and measures the second layer, and so
on. After one pass per layer, a tile is normalised as the image would be. Fewer passes give worse results: if a layer
uses the image's statistics after a layer that did not, the result is worse than with the tile's own statistics
(docs/large.md).
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.module import InterceptorContext
from jax import Array

from diffbir_jax.files.trees import Params, Tree
from diffbir_jax.models.apply import apply
from diffbir_jax.models.convolution import upsample_nearest
from diffbir_jax.models.layers import GroupNorm

# Mean and variance (B, C) float32 of the input of each group normalisation, numbered in their order of execution.
Moments = tuple[Array | np.ndarray, Array | np.ndarray]
Norms = dict[str, Moments]
# Each pass stops after the layer it measures; four stop points keep the number of programs small.
GROUPS = 4


class KnownNorms(NamedTuple):
    """Known statistics of an image.

    Attributes:
        norms: statistics of its normalisations.
        exact: (B,) int32, how many of the first of them are final; the others are estimates.
    """

    norms: Norms
    exact: Tree


def measure_norms(
    module: nn.Module,
    params: Params,
    x: Array,
    owned: Array,
    known: KnownNorms | None = None,
    method: str | None = None,
    stop: int | None = None,
) -> Norms:
    """Statistics of tiles in the group normalisations of a module.

    Args:
        module: its group normalisations see images whose sides are multiples of those of `owned`.
        params: its parameters.
        x: (B, ...), the module's argument, one tile each.
        owned: (B, h, w, 1), 1 where a pixel is counted in this tile, 0 where another one counts it.
        known: statistics of the image; None in the first pass.
        method: method of the module; by default its call.
        stop: measure the first `stop` only, so that what follows them is not computed; by default all.

    Returns:
        statistics of the pixels that each tile owns.
    """
    found: Norms = {}

    def moments(number: int, own: tuple[Array, Array], x: Array) -> Moments:
        # Overlaps of tiles are owned by one tile each, so no pixel counts twice.
        found[_key(number)] = _owned_moments(x, owned)
        if known is None or _key(number) not in known.norms:
            return own
        final = (known.exact > number)[:, None]
        mean, variance = (jnp.where(final, a, b) for a, b in zip(known.norms[_key(number)], own))
        return mean, variance

    _intercepted(moments, module, params, x, method)
    # Unused statistics are dropped here, and XLA removes the layers behind them.
    return first_norms(found, len(found) if stop is None else stop)


def first_norms(norms: Norms, stop: int) -> Norms:
    """The first `stop` statistics."""
    return {key: norms[key] for key in sorted(norms)[:stop]}


def stops(count: int) -> list[int]:
    """For each of `count` passes, the number of normalisations it computes. Few different numbers mean few programs."""
    group = -(-count // GROUPS)
    return [min(count, (number // group + 1) * group) for number in range(count)]


def apply_normed(
    module: nn.Module, params: Params, x: Array, norms: Norms | None = None, method: str | None = None
) -> Tree:
    """Apply a module to tiles by their images' statistics, or without `norms` by their own. Else as `measure_norms`."""
    if norms is None:
        return apply(module, params, x, method=method)
    return _intercepted(lambda number, own, _: norms[_key(number)], module, params, x, method)


def _key(number: int) -> str:
    """Key of a normalisation. JAX sorts the keys of trees, and this form keeps their order."""
    return f"{number:03d}"


def _intercepted(
    moments: Callable[[int, tuple[Array, Array], Array], Moments],
    module: nn.Module,
    params: Params,
    x: Array,
    method: str | None,
) -> Tree:
    """Apply a module whose normalisations use moments(number, own moments, input)."""
    count = itertools.count()

    def intercept(call: Callable[..., Tree], args: tuple, kwargs: dict, context: InterceptorContext) -> Tree:
        own = call(*args, **kwargs)
        if not isinstance(context.module, GroupNorm) or context.method_name != "moments":
            return own
        return moments(next(count), own, args[0])

    with nn.intercept_methods(intercept):
        return apply(module, params, x, method=method)


def merge_norms(parts: Sequence[Norms], share: np.ndarray) -> Norms:
    """Merge the statistics of tiles into those (C,) of an image.

    Args:
        parts: statistics of its tiles, arrays (C,).
        share: (T,), share of the image's pixels that each tile owns; sums to 1.
    """
    stacked = {key: [np.stack(a) for a in zip(*(part[key] for part in parts))] for key in parts[0]}
    return {key: _merged(mean, variance, share) for key, (mean, variance) in stacked.items()}


def _merged(mean: np.ndarray, variance: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # float64 on the host: hundreds of tiles are added up.
    weight = share[:, None].astype(np.float64)
    centre = (weight * mean).sum(axis=0)
    # Law of total variance: the variances inside tiles plus the variance between their means.
    spread = (weight * (variance + np.square(mean - centre))).sum(axis=0)
    return centre.astype(np.float32), spread.astype(np.float32)


def _owned_moments(x: Array, owned: Array) -> tuple[Array, Array]:
    weight = upsample_nearest(owned, x.shape[1] // owned.shape[1])
    # A filling tile at the end of a batch owns no pixel; the maximum avoids 0 / 0.
    weight = weight / jnp.maximum(weight.sum((1, 2), keepdims=True), 1.0)
    y = x.astype(jnp.float32)
    mean = (weight * y).sum((1, 2))
    return mean, (weight * jnp.square(y - mean[:, None, None])).sum((1, 2))
