"""The weights of the golden values: each parameter is a function of a salt, its module, its key and its shape."""

import math
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from diffbir_jax.conversion.engine import Params, Rule, convert, torch_shapes
from diffbir_jax.weights.safetensors import flatten, unflatten


def fill(module: str, key: str, shape: tuple[int, ...], salt: str) -> np.ndarray:
    """One parameter, as on the reference's side.

    Args:
        module: "unet", "controlnet", "vae", "clip", "swinir", "bsrnet" or "scunet".
        key: in the state dict of that module alone.
        shape: in PyTorch's layout.
        salt: of the set of golden files, from its meta.json.

    Returns:
        float32: normal numbers over the square root of the fan-in for kernels, near 1 for scales, near 0 for biases.
    """
    seed = zlib.crc32(f"{salt}/{module}/{key}".encode())
    value = np.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))
    if len(shape) > 1:
        value /= np.float32(math.sqrt(math.prod(shape[1:])))
    elif key.endswith("weight"):
        value = np.float32(1.0) + np.float32(0.1) * value
    elif shape:
        value *= np.float32(0.05)
    else:
        value = np.ones_like(value)
    return value


@dataclass(frozen=True)
class _Parameter:
    """A parameter that is made when it is read."""

    module: str
    key: str
    shape: tuple[int, ...]
    salt: str
    dtype: ClassVar = np.dtype(np.float32)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return fill(self.module, self.key, self.shape, self.salt).astype(dtype or np.float32, copy=False)


def filled(module: str, rules: Iterable[Rule], target: Mapping[str, Any], salt: str) -> Params:
    """Parameters of the shapes `target`, on the device, by way of the checkpoint conversion.

    Little more than one copy is held at any time: host arrays are let go as soon as they are on the device.
    """
    table = list(rules)
    state = {key: _Parameter(module, key, shape, salt) for key, shape in torch_shapes(table, target).items()}
    flat = flatten(convert(state, table, target))
    return unflatten({path: jnp.asarray(flat.pop(path)) for path in list(flat)})
