"""Calling Flax modules with plain parameter dicts, so that the rest of the package never sees flax."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffbir_jax.models.layers import no_values

Params = dict[str, Any]


def init(module: nn.Module, key: jax.Array, *args: Any) -> Params:
    """Return initial float32 parameters of `module` for inputs like `args`."""
    # A plain dict, so that no other room needs flax.
    return dict(module.init(key, *args)["params"])


def abstract(module: nn.Module, *args: Any) -> Params:
    """Return the shapes and dtypes of `module`'s parameters for inputs like `args`, without computing anything."""
    leaves, structure = jax.tree.flatten(args)
    shapes = tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
    # A copy of the dicts: the caller may change them.
    return jax.tree.map(lambda leaf: leaf, _abstract(module, structure, shapes))


@functools.lru_cache(maxsize=256)
def _abstract(module: nn.Module, structure: Any, shapes: tuple[tuple[tuple[int, ...], Any], ...]) -> Params:
    """Like `abstract`, for inputs of a structure and of shapes: tracing a network takes up to seconds."""
    args = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*shape) for shape in shapes])
    # The key is never used: only shapes are traced.
    with no_values():
        return jax.eval_shape(lambda *a: init(module, jax.random.key(0), *a), *args)


def apply(module: nn.Module, params: Params, *args: Any, method: str | None = None) -> Any:
    """Return `module`'s output (of `method`, by default of its call) with `params`."""
    return module.apply({"params": params}, *args, method=method)
