"""Types of trees: parameters of networks, and whatever else JAX takes apart into arrays."""

from typing import Any, TypeAlias

# Parameters: nested dicts by names, as safetensors files and Flax have them. Leaves are arrays of JAX or numpy, or
# their shapes (`jax.ShapeDtypeStruct`). A recursive type would make every reader of params["conv"]["kernel"] say which
# of them it is.
Params: TypeAlias = dict[str, Any]
# A pytree of JAX: an array, None, or tuples, lists, dicts and dataclasses of them. It is for functions that hand a tree
# to JAX and do not look inside. No type of Python says that jax.tree.map keeps the structure.
Tree: TypeAlias = Any
