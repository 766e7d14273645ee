"""What a PyTorch file holds: the dict of weights among everything else, and what is left out."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeGuard

import jax.numpy as jnp
import numpy as np

from diffbir_jax.console.plain import shown
from diffbir_jax.conversion.pickled_arrays import READABLE, Array, Inert, Tensor
from diffbir_jax.conversion.pickles import Name
from diffbir_jax.conversion.stored import CheckpointError, State, Stored, check_key
from diffbir_jax.conversion.zips import DamagedError

# Dicts that hold the weights beside other things: averaged copies first.
WRAPPERS = (
    *("params_ema", "state_dict_ema", "ema", "g_ema"),
    *("params", "state_dict", "model_state_dict", "model", "net_g"),
)
# Names of averaged weights.
EMA = re.compile(r"(^|[._])(ema|averaged|avg|shadow|swa)([._]|$)", re.IGNORECASE)
# Objects that are looked at for the names of classes; files of other trainers can hold millions.
LOOKED_AT = 10_000
# Dicts inside dicts that may hold tensors.
DEEPEST = 4
# What may be weights.
Leaf = Tensor | np.ndarray | Stored | Array
REBUILT = "torch._utils._rebuild_"


@dataclass(frozen=True)
class Contents:
    """The weights in a file by key, and what a reader should know about the choice, one line each."""

    state: State
    notes: tuple[str, ...] = ()


def contents(path: Path, root: object, key: str | None = None) -> Contents:
    """The dict of weights in what `read_torch` read.

    Args:
        path: the file, for messages.
        root: the object in it.
        key: name of the dict, or names joined with "."; None: the innermost of `WRAPPERS`, averaged weights first.

    Raises:
        CheckpointError: there is none, several could be meant, or it holds tensors that cannot be read.
    """
    if not isinstance(root, dict):
        raise CheckpointError(f"{path} {_no_dict(root)}")
    chain = _at(path, root, key) if key else _unwrapped(path, root)
    found = chain[-1]
    if not _weights(found):
        raise CheckpointError(
            f"{path} holds no state dict: no tensors by name, bare or in {', '.join(WRAPPERS)}"
            f"{_further_in(root) or _whole_objects(root)}"
        )
    _check_plain(path, found)
    notes = [] if key else [*_choices(chain), *_averages(root, chain)]
    state = {name: _stored(path, name, x) for name, x in _weights(found).items()}
    return Contents(state, (*notes, *_left_out(root, chain)))


def everything(path: Path, root: object) -> State:
    """All tensors in what `read_torch` read, those in inner dicts with the dicts' names before theirs.

    Raises:
        CheckpointError: there are none, or tensors that cannot be read.
    """
    state = dict(_everywhere(path, root, "", 0))
    if not state:
        raise CheckpointError(
            f"{path} {_no_dict(root) if not isinstance(root, dict) else 'holds no tensors'}"
        )
    return state


def _everywhere(path: Path, value: object, name: str, depth: int) -> Iterator[tuple[str, Stored]]:
    if _is_array(value) and name:
        yield name, _stored(path, name, value)
    elif isinstance(value, dict) and depth < DEEPEST:
        _check_plain(path, value)
        for key, inner in value.items():
            if isinstance(key, str):
                yield from _everywhere(path, inner, f"{name}.{key}" if name else key, depth + 1)


def unwrap(loaded: Mapping[object, object]) -> Mapping[object, object]:
    """The innermost dict of weights in a training tool's file."""
    return _chain(loaded)[-1]


def _chain(
    loaded: Mapping[object, object], wrapper: Callable[[Mapping[object, object]], str | None] | None = None
) -> list[Mapping[object, object]]:
    """The dicts from the outermost to the innermost one; a dict may hold itself. `wrapper` names the next one."""
    chain, averaged = [loaded], False
    while True:
        named = (wrapper or _wrapper)(loaded)
        inner = loaded[named] if named else (_only_one(loaded) if averaged else None)
        averaged = bool(named and EMA.search(named))
        if not isinstance(inner, Mapping) or any(inner is outer for outer in chain):
            return chain
        loaded = inner
        chain.append(loaded)


def _wrapper(loaded: Mapping[object, object]) -> str | None:
    """The name of the dict of weights inside a dict: averaged weights before the last ones, whatever their name."""
    named = _usual(loaded)
    if named is None or EMA.search(named):
        return named
    # An average of another network, such as a discriminator, has other shapes.
    wanted = _shapes(loaded[named])
    same = (name for name in _averaged(loaded) if _shapes(loaded[name]) == wanted)
    return next(same, named)


def _usual(loaded: Mapping[object, object]) -> str | None:
    return next((name for name in WRAPPERS if _holds_under(loaded, name)), None)


def _averaged(loaded: Mapping[object, object]) -> list[str]:
    """The names of dicts of averaged weights inside a dict."""
    return [
        name for name in loaded if isinstance(name, str) and EMA.search(name) and _holds_under(loaded, name)
    ]


def _shapes(found: object) -> list[tuple[int, ...]]:
    """The shapes of a dict's weights, sorted: averages may have other keys, and counters beside the weights."""
    if not isinstance(found, Mapping):
        return []
    inner = _chain(found, _usual)[-1]
    inner = _only_one(inner) or inner
    return sorted(_shape(x) for x in _weights(inner).values() if _size(x) > 1)


def _unwrapped(path: Path, root: dict[object, object]) -> list[Mapping[object, object]]:
    chain = _chain(root)
    if len(chain) > 1 or _weights(root):
        return chain
    inner = _only(path, root)
    return chain if inner is None else [root, *_chain(inner)]


def _choices(chain: list[Mapping[object, object]]) -> list[str]:
    """A line for each dict that holds weights under several names."""
    notes = []
    for outer, inner in zip(chain, chain[1:]):
        here = [name for name in outer if isinstance(name, str) and _holds_under(outer, name)]
        if len(here) < 2:
            continue
        taken = next(shown(name, 40) for name in here if outer[name] is inner)
        others = ", ".join(shown(name, 40) for name in here if outer[name] is not inner)
        notes.append(f"takes the weights in {taken!r}; the file also has {others} (--key NAME takes another)")
    return notes


def _averages(root: dict[object, object], chain: list[Mapping[object, object]]) -> list[str]:
    """A line for averaged weights at a place that is not looked at, such as a trainer's callbacks."""
    taken = {id(found) for found in chain}
    if any(id(x) in taken for outer in chain for name, x in outer.items() if EMA.search(str(name))):
        return []
    places = [name for name, found in _inner_dicts(root, "", DEEPEST) if id(found) not in taken]
    places = [name for name in places if EMA.search(name) and name not in WRAPPERS]
    return [
        f"the file also has averaged weights in {shown(name)} (--key {shown(name)} takes them)"
        for name in places[:1]
    ]


def _inner_dicts(
    outer: Mapping[object, object], before: str, depth: int
) -> Iterator[tuple[str, Mapping[object, object]]]:
    """Dicts with weights inside dicts, and their names joined with dots."""
    for name, value in list(outer.items())[:LOOKED_AT] if depth else []:
        if isinstance(name, str) and isinstance(value, Mapping):
            if any(_size(x) > 1 for x in _weights(value).values()):
                yield before + name, value
            yield from _inner_dicts(value, f"{before}{name}.", depth - 1)


def _only(path: Path, root: dict[object, object]) -> Mapping[object, object] | None:
    """The one dict of tensors, whatever its name, or the one of averaged weights."""
    inner = {name: x for name, x in root.items() if isinstance(x, Mapping) and _holds(x)}
    averaged = [name for name in inner if isinstance(name, str) and EMA.search(name)]
    if len(inner) > 1 and len(averaged) == 1:
        return inner[averaged[0]]
    if len(inner) > 1:
        names = ", ".join(sorted(shown(name, 40) for name in inner))
        raise CheckpointError(f"{path} holds several dicts of tensors, {names}: choose one with --key NAME")
    return next(iter(inner.values()), None)


def _at(path: Path, root: dict[object, object], key: str) -> list[Mapping[object, object]]:
    chain: list[Mapping[object, object]] = []
    found: object = root
    for name in [key] if key in root else key.split("."):
        if not isinstance(found, dict) or name not in found:
            has = ", ".join(shown(x, 40) for x in list(found)[:8]) if isinstance(found, dict) else "no dict"
            raise CheckpointError(
                f"{path}: there is no --key {shown(key)}; at {shown(name)!r} there are: {has}"
            )
        chain.append(found)
        found = found[name]
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: --key {shown(key)} is no dict of tensors")
    return [*chain, *_chain(found)]


def _holds(value: object, depth: int = 4) -> bool:
    """Whether a value is a dict with tensors by name, in it or in a wrapper in it."""
    if not isinstance(value, Mapping) or not depth:
        return False
    return any(isinstance(name, str) and _is_array(x) and _size(x) > 1 for name, x in value.items()) or any(
        _holds_under(value, name, depth - 1) for name in WRAPPERS
    )


def _holds_under(outer: Mapping[object, object], name: str, depth: int = 4) -> bool:
    """Whether a dict holds weights under a name; averages may have them one dict further in, under any name."""
    value = outer.get(name)
    inside = isinstance(value, Mapping) and depth > 1 and EMA.search(name) and _only_one(value, depth - 1)
    return _holds(value, depth) or bool(inside)


def _only_one(outer: Mapping[object, object], depth: int = 4) -> Mapping[object, object] | None:
    """The one dict of weights in a dict that has none itself, such as `shadow` beside a decay."""
    dicts = [x for name, x in outer.items() if isinstance(name, str) and isinstance(x, Mapping)]
    found = [x for x in dicts if _holds(x, depth)]
    return found[0] if len(found) == 1 and not _holds(outer, depth) else None


def _size(x: Leaf) -> int:
    """Number of elements. One alone is a counter, a decay or a scale, such as those that averages keep."""
    return math.prod(_shape(x))


def _shape(x: Leaf) -> tuple[int, ...]:
    return np.asarray(x.value).shape if isinstance(x, Array) else tuple(x.shape)


def _is_array(value: object) -> TypeGuard[Leaf]:
    return isinstance(value, Tensor | np.ndarray | Stored) or (
        isinstance(value, Array) and value.value is not None
    )


def _weights(found: Mapping[object, object]) -> dict[str, Leaf]:
    return {name: x for name, x in found.items() if isinstance(name, str) and _is_array(x)}


def _check_plain(path: Path, found: Mapping[object, object]) -> None:
    """Tensors that are none of ours beside the others are weights that would be missing."""
    for name, x in found.items():
        if isinstance(x, Inert) and x.name.startswith(REBUILT):
            raise CheckpointError(f"{path}: {shown(name)} is {_kind(x.name)}: save plain tensors")


def _kind(name: str) -> str:
    """What a function that rebuilds tensors makes, in words."""
    return "quantised" if name.endswith("_rebuild_qtensor") else "sparse or without values"


def _stored(path: Path, name: str, x: Leaf) -> Stored:
    check_key(path, name)
    if isinstance(x, Array):
        x = np.asarray(x.value)
    if isinstance(x, np.ndarray):
        return Stored(x.shape, x.dtype, lambda: x)
    if isinstance(x, Stored) or x.dtype not in READABLE:
        raise CheckpointError(
            f"{path}: {shown(name)} is stored as {shown(x.dtype)}, which is not read: give a copy in fp32, bf16 or fp16"
        )
    if x.nbytes > path.stat().st_size:
        raise CheckpointError(
            f"{path}: {shown(name)} has the shape {x.shape}, larger than the file: it is damaged"
        )
    dtype = np.dtype(jnp.bfloat16 if x.dtype == "bfloat16" else x.dtype)
    return Stored(x.shape, dtype, partial(_values, path, name, x))


def _values(path: Path, name: str, x: Tensor) -> np.ndarray:
    try:
        return x.array()
    except DamagedError as error:
        raise CheckpointError(f"{path} is damaged at {shown(name)}: {error}; fetch it again") from None


def _no_dict(root: object) -> str:
    if isinstance(root, Inert):
        return f"holds a whole object of the class {shown(root.name)}, not weights by name: save its state_dict()"
    return f"holds no state dict but a {type(root).__name__}: save the state_dict()"


def _whole_objects(root: dict[object, object]) -> str:
    """What is there in place of tensors, as a hint."""
    inner = [x for x in root.values() if isinstance(x, dict)]
    found = ((name, x.name) for outer in (root, *inner) for name, x in outer.items() if isinstance(x, Inert))
    for name, kind in found:
        if kind.startswith(REBUILT):
            return f" ({shown(name, 80)} is {_kind(kind)}: save plain tensors)"
        whole = f"{name} is an object of {shown(kind)}"
        return f" ({shown(whole, 120)}: save its state_dict())"
    return ""


def _further_in(root: dict[object, object]) -> str:
    """Where tensors are that have names, as a hint."""
    names = [shown(name, 80) for name, _ in _inner_dicts(root, "", DEEPEST)]
    return f" (tensors are in {_some(names, 3)}: choose with --key NAME)" if names else ""


def _left_out(root: dict[object, object], chain: list[Mapping[object, object]]) -> list[str]:
    """What stands beside the weights, and the classes that were not built."""
    outside = [name for outer in chain[:-1] for name, x in outer.items() if not _held(outer, name)]
    inside = [name for name, x in chain[-1].items() if not (isinstance(name, str) and _is_array(x))]
    beside = [shown(name, 40) for name in [*outside, *inside]]
    classes = sorted({shown(name) for name in _classes(root)})
    notes = [f"left out beside the weights: {_some(beside)}"] if beside else []
    return notes + ([f"objects of these classes were not built: {_some(classes)}"] if classes else [])


def _held(outer: Mapping[object, object], name: object) -> bool:
    return isinstance(name, str) and _holds_under(outer, name)


def _classes(root: object) -> Iterator[str]:
    """Names of the classes that the file's objects ask for, of a bounded number of objects."""
    todo, seen = [root], set()
    while todo and len(seen) < LOOKED_AT:
        value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Inert):
            yield value.name
        elif isinstance(value, Name):
            yield value.text
        elif isinstance(value, dict):
            todo += [*value.keys(), *value.values()][:LOOKED_AT]
        elif isinstance(value, list | tuple | set | frozenset):
            todo += list(value)[:LOOKED_AT]


def _some(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
