"""PyTorch's files of every form, made without PyTorch."""

import struct
from pathlib import Path
from typing import Any

import numpy as np

from diffbir_jax.conversion.torch_files import MAGIC, PROTOCOL
from diffbir_jax.conversion.torch_writing import Call, Pickle, write_torch

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def write(path: Path, value: Any, modern: bool = True) -> Path:
    """Write a value in the zip format, or in the format before PyTorch 1.6; return the path."""
    if modern:
        write_torch(path, value)
    else:
        path.write_bytes(old(value))
    return path


def old(value: Any) -> bytes:
    """A file as PyTorch before 1.6 wrote it."""
    pickle = Pickle(old=True)
    system = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {"short": 2, "int": 4}}
    head = [Pickle().dump(x) for x in (MAGIC, PROTOCOL, system)]
    body = [pickle.dump(value), Pickle().dump([str(i) for i in range(len(pickle.arrays))])]
    values = [struct.pack("<q", x.size) + x.tobytes() for x in pickle.arrays]
    return b"".join([*head, *body, *values])


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
