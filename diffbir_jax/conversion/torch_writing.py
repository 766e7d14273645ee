"""PyTorch's zip format, written without PyTorch."""

import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from diffbir_jax.conversion.zips import HEADER

ALIGNMENT = 64  # of values in the file, as PyTorch has it, so that they can be mapped
FOLDER = "archive"
STORAGES = {
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "float64": "DoubleStorage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}
# The constants of Python that a pickle writes as one byte.
CONSTANTS = {None: b"N", True: b"\x88", False: b"\x89"}


@dataclass(frozen=True)
class Call:
    """A class or function in a pickle: by its name alone, or called with arguments and given a state."""

    module: str
    name: str
    arguments: tuple[object, ...] | None = None
    state: object = None


@dataclass
class Pickle:
    """A pickle of protocol 2, and the arrays that it refers to.

    Attributes:
        arrays: the values, in the order of their keys "0", "1", ....
        old: whether storages are described as in files before PyTorch 1.6.
    """

    arrays: list[np.ndarray] = field(default_factory=list)
    old: bool = False

    def dump(self, value: object) -> bytes:
        """The pickle of None, bool, int, float, str, bytes, tuples, lists, dicts, arrays (as tensors) and `Call`s."""
        return b"\x80\x02" + self._value(value) + b"."

    def _value(self, value: object) -> bytes:
        if value is None or isinstance(value, bool):
            return CONSTANTS[value]
        for kind, write in self._writers().items():
            if isinstance(value, kind):
                return write(value)
        raise TypeError(f"{type(value).__name__} cannot be written")

    def _writers(self) -> dict[type, Callable[[Any], bytes]]:
        return {
            int: _integer,
            float: lambda x: b"G" + struct.pack(">d", x),
            str: _text,
            bytes: lambda x: self._value(Call("_codecs", "encode", (x.decode("latin-1"), "latin1"))),
            tuple: lambda x: b"(" + b"".join(map(self._value, x)) + b"t",
            list: lambda x: b"](" + b"".join(map(self._value, x)) + b"e",
            dict: lambda x: b"}(" + b"".join(self._value(k) + self._value(v) for k, v in x.items()) + b"u",
            np.ndarray: self._tensor,
            Call: self._call,
        }

    def _call(self, call: Call) -> bytes:
        name = b"c" + f"{call.module}\n{call.name}\n".encode()
        if call.arguments is None:
            return name
        built = b"" if call.state is None else self._value(call.state) + b"b"
        return name + self._value(call.arguments) + b"R" + built

    def _tensor(self, x: np.ndarray) -> bytes:
        kind, key = Call("torch", STORAGES[str(x.dtype)]), str(len(self.arrays))
        self.arrays.append(np.ascontiguousarray(x))
        view = (None,) if self.old else ()
        storage = self._value(("storage", kind, key, "cpu", x.size, *view)) + b"Q"
        strides = tuple(int(np.prod(x.shape[i + 1 :], dtype=np.int64)) for i in range(x.ndim))
        rest = (0, x.shape, strides, False, Call("collections", "OrderedDict", ()))
        arguments = b"(" + storage + b"".join(map(self._value, rest)) + b"t"
        return b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"


def _integer(x: int) -> bytes:
    if -(1 << 31) <= x < 1 << 31:
        return b"J" + struct.pack("<i", x)
    data = x.to_bytes(x.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def _text(x: str) -> bytes:
    data = x.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def write_torch(path: Path, value: object) -> None:
    """Write what `torch.load` reads: see `Pickle.dump` for what a value may be.

    Raises:
        OSError: the file cannot be written.
        TypeError: the value holds something else.
    """
    pickle = Pickle()
    data = pickle.dump(value)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, "data.pkl", data)
        _add(archive, "byteorder", b"little")
        for key, array in enumerate(pickle.arrays):
            _add(archive, f"data/{key}", array.astype(array.dtype.newbyteorder("<"), copy=False))
        _add(archive, "version", b"3\n")


def _add(archive: zipfile.ZipFile, name: str, data: bytes | np.ndarray) -> None:
    info = zipfile.ZipInfo(f"{FOLDER}/{name}")
    start = (archive.fp.tell() if archive.fp else 0) + HEADER.size + len(info.filename)
    padding = -(start + 4) % ALIGNMENT
    # An extra field that says nothing moves the values to the next multiple.
    info.extra = b"FB" + struct.pack("<H", padding) + b"\0" * padding
    raw = data if isinstance(data, bytes) else data.reshape(-1).view(np.uint8).data
    archive.writestr(info, raw)  # pyright: ignore[reportArgumentType]
