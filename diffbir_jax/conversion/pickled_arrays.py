"""What the pickle machine builds beside containers: tensors of PyTorch, arrays of NumPy, and inert objects.

Everything is checked against the size of what it lies in before a value is read.
"""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np

# PyTorch's names of types that numpy can hold -> bytes per element.
READABLE = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "bool": 1}
READABLE |= {f"{sign}int{8 * size}": size for sign in ("", "u") for size in (1, 2, 4, 8)}
# Known, but without a counterpart, or in need of a scale.
OTHERS = {"complex32": 4, "complex64": 8, "complex128": 16, "qint8": 1, "quint8": 1, "qint32": 4}
SIZES = READABLE | OTHERS
STORAGES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "Untyped": "uint8",
    "ComplexHalf": "complex32",
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
    "QInt8": "qint8",
    "QUInt8": "quint8",
    "QInt32": "qint32",
}
MOST_AXES = 32
NUMPY_TYPE = re.compile(r"[<>|=]?(f[248]|i[1248]|u[1248]|b1)")


class Inert:
    """An object that is not read: the name of its class or function, and nothing else."""

    def __init__(self, name: str):
        """Take the name."""
        self.name = name


@dataclass
class Storage:
    """A run of elements in the file.

    Attributes:
        dtype: PyTorch's name of their type.
        count: how many there are.
        values: the bytes, once the reader of the file has found them.
        big_endian: whether an element's first byte is the most significant.
        check: raises if the bytes are damaged; None if the file cannot tell, or once they were checked.
    """

    dtype: str
    count: int
    values: memoryview | None = None
    big_endian: bool = False
    check: Callable[[], None] | None = None

    def read(self) -> memoryview:
        """The bytes, checked at the first call: the file is mapped, so this does not read them twice.

        Raises:
            ValueError: there are none, or they are damaged.
        """
        if self.values is None:
            raise ValueError("a storage without values")
        if self.check is not None:
            self.check()
            self.check = None
        return self.values

    @property
    def nbytes(self) -> int | None:
        """Bytes of all elements; None if the type is unknown."""
        size = SIZES.get(self.dtype, 1 if self.dtype.startswith("float8") else None)
        return None if size is None else self.count * size


@dataclass(frozen=True)
class Span:
    """A part of a storage, in elements."""

    storage: Storage
    start: int
    count: int


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor: a view of a storage, in elements of `dtype`.

    Attributes:
        dtype: PyTorch's name of the type.
        shape: sizes of the axes.
        strides: steps of the axes.
        start: the first element.
        storage: where the elements are. Several tensors may share one.
        negated: whether the values are those of the storage with the other sign.
    """

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    start: int
    storage: Storage
    negated: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of the array that `array` gives, if it is copied."""
        return math.prod(self.shape) * READABLE.get(self.dtype, 1)

    def array(self) -> np.ndarray:
        """The values: a view of the file, or a copy where bytes are in the other order.

        Raises:
            ValueError: the type is not readable, or the file does not hold the values, or they are damaged.
        """
        size = READABLE[self.dtype]
        if 0 in self.shape:
            return np.zeros(self.shape, jnp.bfloat16 if self.dtype == "bfloat16" else self.dtype)
        values = self.storage.read()
        raw = np.dtype(f"{'>' if self.storage.big_endian else '<'}u{size}")
        steps = tuple(size * step for step in self.strides)
        bits = np.ndarray(self.shape, raw, values, size * self.start, steps)
        # Through unsigned integers of the same width, so no bit changes.
        bits = bits.astype(raw.newbyteorder("="), copy=False)
        array = bits.view(jnp.bfloat16 if self.dtype == "bfloat16" else self.dtype)
        return -array if self.negated else array


@dataclass
class Type:
    """NumPy's dtype in a pickle: its text, and the byte order that comes later."""

    text: object
    order: str = "="

    def build(self, state: object) -> None:
        """Take the byte order."""
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else "="
        self.order = order if order in ("<", ">", "=", "|") else "="

    def numpy(self) -> np.dtype | None:
        """The dtype, None for texts, objects, records and dates."""
        if not isinstance(self.text, str) or not NUMPY_TYPE.fullmatch(self.text):
            return None
        # "=" and "|" leave the order that the text has.
        return np.dtype(self.text).newbyteorder(">") if self.order == ">" else np.dtype(self.text)


@dataclass(eq=False)
class Array:
    """A NumPy array in a pickle. Arrays of objects stay None."""

    value: np.ndarray | None = field(default=None)

    def build(self, state: Any) -> None:
        """Take shape, type, order of the axes and values.

        Raises:
            ValueError: they do not fit together.
        """
        _, shape, kind, fortran, data = state
        dtype = kind.numpy() if isinstance(kind, Type) else None
        if dtype is None or not isinstance(data, bytes | bytearray):
            return
        if len(shape) > MOST_AXES or math.prod(map(natural, shape)) * dtype.itemsize != len(data):
            raise ValueError("an array whose shape does not fit its bytes")
        array = np.frombuffer(bytes(data), dtype).reshape(shape, order="F" if fortran else "C")
        self.value = array.astype(dtype.newbyteorder("="), copy=False)


def array_of(data: object, kind: object, shape: tuple[int, ...], order: object) -> Array:
    """An array as pickles of protocol 5 write it.

    Raises:
        ValueError: shape, type and values do not fit together.
    """
    array = Array()
    array.build((1, shape, kind, order == "F", data))
    return array


def scalar(kind: object, data: object = b"") -> object:
    """A NumPy scalar as a Python number; inert if it is none."""
    dtype = kind.numpy() if isinstance(kind, Type) else None
    if dtype is None or not isinstance(data, bytes | bytearray) or len(data) != dtype.itemsize:
        return Inert("numpy scalar")
    return np.frombuffer(bytes(data), dtype)[0].item()


def storage_dtype(name: str) -> str:
    """PyTorch's type of a class of storages, "torch.FloatStorage" -> "float32"; otherwise the name itself.

    Raises:
        ValueError: it is no storage.
    """
    short = name.rsplit(".", 1)[-1]
    if not name.startswith("torch") or not short.endswith("Storage"):
        raise ValueError(f"{name[:60]!r} is no storage")
    return STORAGES.get(short.removesuffix("Storage"), short)


def part(storage: Storage, start: object, count: object) -> Span:
    """A part of a storage.

    Raises:
        ValueError: it reaches outside.
    """
    first, length = natural(start), natural(count)
    if first + length > storage.count:
        raise ValueError("a view that reaches outside its storage")
    return Span(storage, first, length)


def tensor(
    span: object, start: object, shape: Iterable[object], strides: Iterable[object], negated: bool = False
) -> Tensor:
    """A tensor from the arguments in the pickle.

    Raises:
        ValueError: they reach outside the storage.
    """
    if not isinstance(span, Span):
        raise ValueError("a tensor without a storage")
    return _checked(span.storage.dtype, span, span.count, start, shape, strides, negated)


def tensor_with_rest(
    span: object, start: object, shape: Iterable[object], strides: Iterable[object], *rest: object
) -> Tensor:
    """As `tensor`; then come gradient, hooks and, in some files, {"neg": True}."""
    return tensor(span, start, shape, strides, _negated(rest[2] if len(rest) > 2 else None))


def tensor_of_bytes(
    span: object,
    start: object,
    shape: Iterable[object],
    strides: Iterable[object],
    dtype: str,
    metadata: object = None,
) -> Tensor:
    """As `tensor`, with a type of its own on a storage of bytes."""
    if not isinstance(span, Span) or span.storage.dtype != "uint8" or span.start:
        raise ValueError("a tensor without a storage of bytes")
    count = span.count // SIZES.get(dtype, 1)
    return _checked(dtype, span, count, start, shape, strides, _negated(metadata))


def natural(number: object) -> int:
    """A count from a pickle.

    Raises:
        ValueError: it is no integer from 0 to 2^62.
    """
    if type(number) is not int or not 0 <= number < 1 << 62:
        raise ValueError(f"{str(number)[:30]} is no size")
    return number


def _negated(metadata: object) -> bool:
    return isinstance(metadata, dict) and metadata.get("neg") is True


def _checked(
    dtype: str,
    span: Span,
    count: int,
    start: object,
    shape: Iterable[object],
    strides: Iterable[object],
    negated: bool,
) -> Tensor:
    sides, steps = tuple(map(natural, shape)), tuple(map(natural, strides))
    if len(sides) != len(steps) or len(sides) > MOST_AXES:
        raise ValueError("a tensor whose shape and strides differ in length")
    first = natural(start)
    last = first + sum((size - 1) * step for size, step in zip(sides, steps, strict=True))
    if 0 not in sides and last >= count:
        raise ValueError(f"a tensor that reaches element {last:,} of a storage with {count:,}")
    return Tensor(dtype, sides, steps, span.start + first, span.storage, negated)
