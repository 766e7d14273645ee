"""PyTorch's files of every form, made without PyTorch."""

from pathlib import Path
from typing import Any

import numpy as np

from diffbir_jax.conversion.torch_writing import Call, Pickle, write_torch
from scripts.checkpoint_forms import write_old

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def write(path: Path, value: Any, modern: bool = True) -> Path:
    """Write a value in the zip format, or in the format before PyTorch 1.6; return the path."""
    if modern:
        write_torch(path, value)
    else:
        write_old(path, value)
    return path


def tensor(shape: Any, strides: Any, start: int = 0, count: int = 6, kind: str = "FloatStorage") -> Call:
    """A tensor as a pickle describes it: any numbers."""
    storage = Reference(("storage", Call("torch", kind), "0", "cpu", count))
    rest = (start, shape, strides, False, Call("collections", "OrderedDict", ()))
    return Call("torch._utils", "_rebuild_tensor_v2", (storage, *rest))


class Reference(Call):
    """A persistent reference, as storages have them."""

    def __init__(self, parts: tuple[Any, ...]):
        super().__init__("", "", parts)


class Described(Pickle):
    """A pickle that can have `Reference`s."""

    def _call(self, call: Call) -> bytes:
        if isinstance(call, Reference):
            return self._value(call.arguments) + b"Q"
        return super()._call(call)
