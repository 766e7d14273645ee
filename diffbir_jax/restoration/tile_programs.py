"""The programs that take tiles through the networks, and the stream of tiles from images on the host.

A program sees (M, K, ...) tiles: M batches of K, scanned one after the other; the axis K is what devices share. Images
stay on the host, so that memory is that of a batch whatever their size, and tiles of several images share a batch.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from diffbir_jax.files.trees import Tree

T = TypeVar("T")
R = TypeVar("R")


def in_batches(function: Callable[[T], R], tiles: T, used: Array) -> R:
    """Apply a function to batches of tiles, one after the other, as a part of the compiled program.

    Args:
        function: tree of (K, ...) -> tree of (K, ...).
        tiles: tree of (M, K, ...).
        used: (M, K) float32, 0 for tiles that only fill up a batch; batches of only such tiles are skipped.

    Returns:
        tree of (M, K, ...).
    """
    like = jax.eval_shape(function, jax.tree.map(lambda a: a[0], tiles))

    def skip(_: T) -> R:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)

    def body(_: None, batch: tuple[T, Array]) -> tuple[None, R]:
        return None, lax.cond(batch[1].sum() > 0, function, skip, batch[0])

    return lax.scan(body, None, (tiles, used))[1]


def stream(
    call: Callable[[Tree, np.ndarray], Tree], tiles: Iterable[Tree], shape: tuple[int, int]
) -> Iterator[Tree]:
    """Pass tiles through a program, (M, K) at a time; while it computes, earlier results are handed out.

    Args:
        call: (tree of (M, K, ...), used (M, K)) -> tree of (M, K, ...) on devices.
        tiles: trees of numpy arrays, one tile each; consumed as far as needed.
        shape: M and K.

    Yields:
        trees of numpy arrays, one per tile, in order.
    """
    tiles, waiting = iter(tiles), None
    while group := list(islice(tiles, shape[0] * shape[1])):
        count = len(group)
        group += group[-1:] * (shape[0] * shape[1] - count)
        stacked = jax.tree.map(lambda *parts: np.stack(parts).reshape(*shape, *parts[0].shape), *group)
        used = (np.arange(len(group)) < count).astype(np.float32).reshape(shape)
        started = call(stacked, used), count
        if waiting is not None:
            yield from _unstacked(*waiting)
        waiting = started
    if waiting is not None:
        yield from _unstacked(*waiting)


def _unstacked(result: Tree, count: int) -> Iterator[Tree]:
    """The first `count` tiles of a program's result."""
    leaves, tree = jax.tree.flatten(result)
    flat = [np.asarray(leaf).reshape(-1, *leaf.shape[2:]) for leaf in leaves]
    for tile in islice(zip(*flat), count):
        yield jax.tree.unflatten(tree, tile)
