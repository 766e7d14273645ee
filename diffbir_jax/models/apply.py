"""Calling Flax modules with plain parameter dicts, so that the rest of the package never sees flax."""

import functools
from collections.abc import Hashable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from diffbir_jax.files.trees import Params, Tree
from diffbir_jax.models.platform import no_values

# For annotations in rooms that do not import flax.
Module = nn.Module


def init(module: nn.Module, key: jax.Array, *args: Tree) -> Params:
    """Return initial float32 parameters of `module` for inputs like `args`."""
    # A plain dict, so that no other room needs flax.
    return dict(module.init(key, *args)["params"])


def abstract(module: nn.Module, *args: Tree) -> Params:
    """Return the shapes and dtypes of `module`'s parameters for inputs like `args`, without computing anything."""
    leaves, structure = jax.tree.flatten(args)
    shapes = tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
    # A copy of the dicts: the caller may change them.
    return jax.tree.map(lambda leaf: leaf, _abstract(module, structure, shapes))


@functools.lru_cache(maxsize=256)
def _abstract(
    module: nn.Module,
    structure: Hashable,
    shapes: tuple[tuple[tuple[int, ...], np.dtype], ...],
) -> Params:
    """Like `abstract`, for inputs of a structure and of shapes: tracing a network takes up to seconds."""
    args = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*shape) for shape in shapes])
    # The key is never used: only shapes are traced.
    with no_values():
        return jax.eval_shape(lambda *a: init(module, jax.random.key(0), *a), *args)


def apply(module: nn.Module, params: Params, *args: Tree, method: str | None = None) -> Tree:
    """Return `module`'s output (of `method`, by default of its call) with `params`."""
    return module.apply({"params": params}, *args, method=method)
