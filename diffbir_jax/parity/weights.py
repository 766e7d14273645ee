"""The weights of the golden values. Each parameter is a function of a salt, its module, its key and its shape."""

import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from diffbir_jax.conversion.engine import Params, Rule, convert, torch_shapes
from diffbir_jax.weights.safetensors import flatten, unflatten


def fill(module: str, key: str, shape: tuple[int, ...], salt: str) -> np.ndarray:
    """Return one parameter, equal to the one on the reference's side.

    Args:
        module: "unet", "controlnet", "vae", "clip", "swinir", "bsrnet" or "scunet".
        key: its key in the state dict of that module alone.
        shape: in PyTorch's layout.
        salt: salt of the golden files, from meta.json.

    Returns:
        float32: kernels are normal numbers divided by the square root of the fan-in; scales are near 1, biases near 0.
    """
    # Seeded by the name: both sides make a network's weights without exchanging files of gigabytes.
    seed = zlib.crc32(f"{salt}/{module}/{key}".encode())
    value = np.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))
    if len(shape) > 1:
        # Keeps activations near unit size, so that no network saturates or overflows.
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
    dtype: np.dtype = np.dtype(np.float32)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        return fill(self.module, self.key, self.shape, self.salt).astype(dtype or np.float32, copy=False)


def filled(module: str, rules: Iterable[Rule], target: Params, salt: str) -> Params:
    """Return parameters of the shapes `target`, on the device, made by the checkpoint conversion.

    It needs little more memory than one copy: each host array is released as soon as it is on the device.
    """
    table = list(rules)
    state = {key: _Parameter(module, key, shape, salt) for key, shape in torch_shapes(table, target).items()}
    flat = flatten(convert(state, table, target))
    return unflatten({path: jnp.asarray(flat.pop(path)) for path in list(flat)})
