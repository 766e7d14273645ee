"""A pickle machine that runs no code: it builds containers, numbers, text, tensors and arrays, and nothing else.

Python's own unpickler calls what a pickle names. Here a name is only a name. A few names have a meaning (`CALLS`).
Calls of any other name give an `Inert` object that remembers the name. The machine imports nothing, looks up no
attribute, and its memory grows with the pickle: sizes in the pickle never allocate anything.
"""

import pickletools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from diffbir_jax.conversion import pickled_arrays
from diffbir_jax.conversion.pickled_arrays import Array, Inert, Span, Storage, Type


class Stream(Protocol):
    """Bytes with a position: a mapped file, or io.BytesIO. Reading past the end gives fewer bytes."""

    def read(self, n: int, /) -> bytes: ...  # noqa: D102
    def readline(self) -> bytes: ...  # noqa: D102
    def tell(self) -> int: ...  # noqa: D102


# What a malformed pickle ends in.
MALFORMED = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)
# Keys whose hash is cheap and spread: others are kept apart by identity.
LARGEST_KEY = 1 << 60
# The function that reads a storage inside a pickle.
WITHIN = "torch.storage._load_from_bytes"
# Items that calls may copy: so many per byte of the pickle, and some more for short ones.
COPIES, MARGIN = 4, 1 << 16


@dataclass(frozen=True, eq=False)
class Name:
    """A class or function that a pickle names."""

    text: str


def load(
    stream: Stream, storages: dict[str, Storage], within: Callable[[bytes], object] | None = None
) -> object:
    """Read one pickle.

    Args:
        stream: where the pickle starts; afterwards it stands behind it.
        storages: gets the storages that the pickle refers to, by key. The caller says where their values are.
        within: reads a whole PyTorch file inside the pickle: a storage, as `pickle.dump` writes tensors.

    Returns:
        dicts, lists, tuples, sets, text, bytes, numbers, `Tensor`s, `Array`s, and `Inert` for everything else.

    Raises:
        ValueError: the pickle is malformed or cut off; the message is one line.
    """
    machine = _Machine(storages, within)
    try:
        for opcode, argument, position in pickletools.genops(stream):  # pyright: ignore[reportArgumentType]
            machine.position = position or 0
            machine.step(opcode.name, argument)
        return machine.stack[-1]
    except MALFORMED as error:
        reason = (str(error).splitlines() or [""])[0][:100]
        raise ValueError(f"malformed pickle: {type(error).__name__} {reason}".strip()) from error


class _Machine:
    def __init__(self, storages: dict[str, Storage], within: Callable[[bytes], object] | None):
        self.stack: list[object] = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}
        self.storages, self.within = storages, within
        self.position = self.spent = 0

    def step(self, name: str, argument: object) -> None:
        if name in PUSHED:
            self.stack.append(PUSHED[name]())
        elif name in CONSTANTS:
            self.stack.append(argument)
        elif name not in SKIPPED:
            STEPS[name](self, argument)

    def since_mark(self) -> list[object]:
        start = self.marks.pop()
        items = self.stack[start:]
        if len(self.stack) < start:
            raise ValueError("a mark without its items")
        del self.stack[start:]
        return items

    def call(self, function: object, arguments: object) -> object:
        """The result of a call: ours for a name with a meaning, otherwise an inert object of this name."""
        name = function.text if isinstance(function, Name) else "?"
        known = CALLS.get(name)
        arguments = arguments if isinstance(arguments, tuple) else ()
        self.spend(arguments)
        if name == WITHIN and self.within and arguments and isinstance(arguments[0], bytes):
            return self.within(arguments[0])
        return known(*arguments) if known else Inert(name)

    def spend(self, arguments: object) -> None:
        """Calls may copy their arguments: together no more than the pickle is long, however often it names one."""
        items = arguments if isinstance(arguments, tuple) else ()
        self.spent += sum(
            len(x) for x in items if isinstance(x, tuple | list | dict | set | str | bytes | bytearray)
        )
        if self.spent > COPIES * self.position + MARGIN:
            raise ValueError("the same data is used over and over")

    def persistent(self, reference: object) -> object:
        """A storage: ("storage", its type, key, place, number of elements), in old files with a view of it."""
        if not isinstance(reference, tuple) or len(reference) < 5 or reference[0] != "storage":
            return Inert("persistent object")
        _, kind, key, _, count, *view = reference
        dtype = pickled_arrays.storage_dtype(kind.text)
        storage = self.storages.setdefault(str(key), Storage(dtype, pickled_arrays.natural(count)))
        if storage.dtype != dtype or storage.count != count:
            raise ValueError(f"two descriptions of storage {str(key)[:20]!r}")
        if view and view[0] is not None:
            return pickled_arrays.part(storage, *view[0][1:])
        return Span(storage, 0, storage.count)


def _key(key: object) -> object:
    """A dict's key; of other kinds only the identity counts, as hashing deep tuples could end the process."""
    plain = isinstance(key, str | bytes | bool | None) or (isinstance(key, int) and abs(key) < LARGEST_KEY)
    if isinstance(key, Name):
        return key
    return key if plain else Inert("key")


def _set_items(target: object, items: list[object]) -> None:
    if len(items) % 2:
        raise ValueError("a key without a value")
    if isinstance(target, dict):
        target.update((_key(k), v) for k, v in zip(items[::2], items[1::2], strict=True))


def _extend(target: object, items: list[object]) -> None:
    if isinstance(target, list):
        target.extend(items)


def _add(target: object, items: list[object]) -> None:
    if isinstance(target, set):
        target.update(map(_key, items))


def _build(m: _Machine, _: object) -> None:
    state, target = m.stack.pop(), m.stack[-1]
    if isinstance(target, Array | Type):
        m.spend(state)
        target.build(state)


def _get(m: _Machine, index: int | str) -> None:
    m.stack.append(m.memo[int(index)])


def _put(m: _Machine, index: int | str) -> None:
    m.memo[int(index)] = m.stack[-1]


def _memoize(m: _Machine, _: object) -> None:
    m.memo[len(m.memo)] = m.stack[-1]


def _pop(m: _Machine, _: object) -> None:
    # A mark counts as an object.
    (m.marks if m.marks and m.marks[-1] == len(m.stack) else m.stack).pop()


def _mark(m: _Machine, _: object) -> None:
    m.marks.append(len(m.stack))


def _tuple_of(count: int) -> Callable[[_Machine, object], None]:
    def step(m: _Machine, _: object) -> None:
        if len(m.stack) < count:
            raise IndexError("stack")
        items = tuple(m.stack[-count:])
        del m.stack[-count:]
        m.stack.append(items)

    return step


def _collected(make: Callable[[list[object]], object]) -> Callable[[_Machine, object], None]:
    """A step that makes one object of everything since the mark."""

    def step(m: _Machine, _: object) -> None:
        m.stack.append(make(m.since_mark()))

    return step


def _many(give: Callable[[object, list[object]], None]) -> Callable[[_Machine, object], None]:
    """A step that gives everything since the mark to the object below it."""

    def step(m: _Machine, _: object) -> None:
        items = m.since_mark()
        give(m.stack[-1], items)

    return step


def _few(give: Callable[[object, list[object]], None], count: int) -> Callable[[_Machine, object], None]:
    """A step that gives the last `count` objects to the one below them."""

    def step(m: _Machine, _: object) -> None:
        target, items = m.stack[-1 - count], m.stack[-count:]
        del m.stack[-count:]
        give(target, items)

    return step


def _dict_of(items: list[object]) -> dict[object, object]:
    made: dict[object, object] = {}
    _set_items(made, items)
    return made


def _reduce(m: _Machine, _: object) -> None:
    arguments, function = m.stack.pop(), m.stack.pop()
    m.stack.append(m.call(function, arguments))


def _new_with_keywords(m: _Machine, _: object) -> None:
    m.stack.pop()
    _reduce(m, None)


def _instance(m: _Machine, name: str) -> None:
    m.stack.append(m.call(Name(_dotted(name)), tuple(m.since_mark())))


def _object(m: _Machine, _: object) -> None:
    function, *arguments = m.since_mark()
    m.stack.append(m.call(function, tuple(arguments)))


def _global(m: _Machine, name: str) -> None:
    m.stack.append(Name(_dotted(name)))


def _stack_global(m: _Machine, _: object) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    m.stack.append(Name(f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else "?"))


def _dotted(name: str) -> str:
    """pickletools joins module and name with a space."""
    return name.replace(" ", ".", 1)


def _persistent(m: _Machine, argument: object) -> None:
    m.stack.append(m.persistent(argument if argument is not None else m.stack.pop()))


def _extension(m: _Machine, code: object) -> None:
    m.stack.append(Name(f"extension {code}"))


def _tensor_of(function: object, kind: object, arguments: Iterable[object], state: object = None) -> object:
    """A tensor with attributes, or of a subclass: its plain part."""
    known = CALLS.get(function.text) if isinstance(function, Name) else None
    name = kind.text if isinstance(kind, Name) else "?"
    return known(*arguments) if known and known is not _tensor_of else Inert(name)


def _encoded(text: str, encoding: object) -> object:
    """How pickles of protocol 2 write bytes."""
    return text.encode("latin-1") if encoding in ("latin1", "latin-1") else Inert("_codecs.encode")


def _listed(items: object = ()) -> list[object]:
    return list(items) if isinstance(items, list | tuple) else []


def _dict_from(items: object = ()) -> dict[object, object]:
    """`OrderedDict()`, `OrderedDict([[key, value], ...])`, `defaultdict(factory)`."""
    pairs = [pair for pair in _listed(items) if isinstance(pair, list | tuple) and len(pair) == 2]
    return dict(items) if isinstance(items, dict) else {_key(k): v for k, v in pairs}


def _typed_tensor(*arguments: Any) -> object:
    """`_rebuild_tensor_v3`: bytes, and the type after the hooks."""
    storage, offset, size, stride, _, _, dtype, *more = arguments
    name = dtype.text.removeprefix("torch.") if isinstance(dtype, Name) else "?"
    return pickled_arrays.tensor_of_bytes(storage, offset, size, stride, name, *more[:1])


CALLS: dict[str, Callable[..., object]] = {
    "torch._utils._rebuild_tensor": pickled_arrays.tensor,
    "torch._utils._rebuild_tensor_v2": pickled_arrays.tensor_with_rest,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._tensor._rebuild_from_type_v2": _tensor_of,
    "torch.Size": lambda sizes=(): tuple(_listed(sizes)),
    "collections.OrderedDict": _dict_from,
    "collections.defaultdict": lambda factory=None, items=(): _dict_from(items),
    "_codecs.encode": _encoded,
}
CALLS |= {
    f"{module}.{name}": make
    for module in ("builtins", "__builtin__")
    for name, make in {
        "dict": _dict_from,
        "list": _listed,
        "tuple": lambda items=(): tuple(_listed(items)),
        "set": lambda items=(): set(map(_key, _listed(items))),
        "frozenset": lambda items=(): frozenset(map(_key, _listed(items))),
        "bytes": lambda *_: b"",
    }.items()
}
CALLS |= {
    f"numpy.{core}.multiarray.{name}": make
    for core in ("core", "_core")
    for name, make in (("_reconstruct", lambda *_: Array()), ("scalar", pickled_arrays.scalar))
}
CALLS |= {f"numpy.{core}.numeric._frombuffer": pickled_arrays.array_of for core in ("core", "_core")}
CALLS["numpy.dtype"] = lambda text, *_: Type(text)

PUSHED: dict[str, Callable[[], object]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
    "NEXT_BUFFER": lambda: Inert("buffer"),
}
CONSTANTS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
}
SKIPPED = {"PROTO", "FRAME", "STOP", "READONLY_BUFFER"}
STEPS: dict[str, Callable[[_Machine, Any], object]] = {
    "MARK": _mark,
    "POP": _pop,
    "POP_MARK": lambda m, _: m.since_mark(),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "LIST": _collected(list),
    "TUPLE": _collected(tuple),
    "DICT": _collected(_dict_of),
    "FROZENSET": _collected(lambda items: frozenset(map(_key, items))),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "APPEND": _few(_extend, 1),
    "APPENDS": _many(_extend),
    "SETITEM": _few(_set_items, 2),
    "SETITEMS": _many(_set_items),
    "ADDITEMS": _many(_add),
    "MEMOIZE": _memoize,
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _new_with_keywords,
    "INST": _instance,
    "OBJ": _object,
    "BUILD": _build,
    "PERSID": _persistent,
    "BINPERSID": _persistent,
}
STEPS |= dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _get)
STEPS |= dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _put)
STEPS |= dict.fromkeys(("EXT1", "EXT2", "EXT4"), _extension)
