"""Build degradations from plain data: mappings become dataclasses of steps, and every name is checked."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

from diffbir_jax.data import flow, steps
from diffbir_jax.data.example import DataError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

# Operations by their name in a `compose` list.
OPERATIONS: dict[str, type] = {
    "blur": steps.Blur,
    "sinc": steps.Sinc,
    "downscale": steps.Downscale,
    "resize": steps.Resize,
    "noise": steps.GaussianNoise,
    "poisson": steps.PoissonNoise,
    "sensor": steps.SensorNoise,
    "grain": steps.Grain,
    "unsharp": steps.Unsharp,
    "jpeg": steps.Jpeg,
    "webp": steps.Webp,
    "quantise": steps.Quantise,
    "chain": flow.Chain,
    "shuffle": flow.Shuffle,
    "one_of": flow.OneOf,
    "maybe": flow.Maybe,
    "reduced": flow.Reduced,
}


def build(
    kind: type[T],
    config: Mapping[str, object],
    path: str,
    base: T | None = None,
    seen: Counter[str] | None = None,
) -> T:
    """Build a dataclass from plain data; fields that `config` does not name keep their defaults.

    Args:
        kind: the dataclass. A field that holds a dataclass takes a mapping; a field `steps` takes a list of
            (operation, {field: value}).
        config: field -> value; lists become tuples.
        path: the place of `config`, for messages.
        base: an instance with the defaults, in place of the class.
        seen: how often each operation occurred before. Its name in the record has a number from the second time on.

    Raises:
        DataError: an unknown field or operation, a missing field, or a value that is not allowed.
    """
    check_known(path, config, [f.name for f in dataclasses.fields(kind)])
    seen = Counter() if seen is None else seen
    values = {k: _value(k, v, getattr(base or kind, k, None), path, seen) for k, v in config.items()}
    try:
        return kind(**(values if base is None else vars(base) | values))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except TypeError as error:
        raise DataError(f"{path} lacks a field, or holds a value of the wrong type: {error}") from error


def check_known(path: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Check that all `names` are `known`.

    Raises:
        DataError: a name is unknown.
    """
    if unknown := [name for name in names if name not in known]:
        raise DataError(f"{path} has no {', '.join(map(repr, unknown))}; give any of {', '.join(known)}")


def _value(key: str, value: object, default: object, path: str, seen: Counter[str]) -> object:
    if key == "steps":
        return _steps(value, f"{path}.steps", seen)
    if dataclasses.is_dataclass(default) and not isinstance(default, type) and isinstance(value, Mapping):
        # The default's own values stay for fields that the mapping leaves out.
        return build(type(default), value, f"{path}.{key}", default)
    if dataclasses.is_dataclass(default) and not isinstance(value, type(default)):
        raise DataError(f"{path}.{key} is {value!r}; give {{field: value}}")
    return tuple(value) if isinstance(value, list) else value


def _steps(config: object, path: str, seen: Counter[str]) -> steps.Steps:
    if not isinstance(config, list | tuple):
        raise DataError(f"{path} is {config!r}; give a list of (operation, {{field: value}})")
    return tuple(_step(item, f"{path}[{i}]", seen) for i, item in enumerate(config))


def _step(item: object, path: str, seen: Counter[str]) -> tuple[str, steps.Step]:
    if not (isinstance(item, list | tuple) and len(item) == 2 and isinstance(item[1], Mapping)):
        raise DataError(f"{path} is {item!r}; give (operation, {{field: value}})")
    operation, fields = item
    check_known(path, [operation], OPERATIONS)
    seen[operation] += 1
    name = operation if seen[operation] == 1 else f"{operation}{seen[operation]}"
    return name, build(OPERATIONS[operation], fields, f"{path} {operation}", seen=seen)
