"""TOML files as dataclasses; errors name the entry and what it allows."""

import dataclasses
import tomllib
import types
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from diffbir_jax.console.errors import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def read_toml(path: Path, kind: type[T], more: Mapping[str, object]) -> T:
    """Return the content of a file, with further entries, as the dataclass `kind`.

    Raises:
        ValueError: it is no TOML, or an entry is unknown, missing or of another type.
    """
    return fill(kind, tomllib.loads(path.read_text("utf-8")) | dict(more), "")


def fill(kind: type[T], table: object, where: str) -> T:
    """Return a table of the file as the dataclass `kind`; `where` names the table."""
    if not isinstance(table, Mapping):
        raise UserError(f"{where or 'the file'} is {table!r}, wanted is a table")
    hints, fields = get_type_hints(kind), {f.name: f for f in dataclasses.fields(kind)}
    absent = dataclasses.MISSING
    needed = {name for name, f in fields.items() if f.default is f.default_factory is absent}
    unknown, missing = sorted(table.keys() - fields.keys()), sorted(needed - table.keys())
    at = f"{where}: " if where else ""
    if unknown:
        raise UserError(f"{at}unknown entry {unknown[0]!r}, allowed are {', '.join(fields)}")
    if missing:
        raise UserError(f"{at}no entry {', '.join(missing)}")
    prefix = f"{where}." if where else ""
    return kind(**{name: _typed(value, hints[name], prefix + name) for name, value in table.items()})


def _typed(value: object, hint: object, where: str) -> object:
    """Return a value of the file as the type `hint`."""
    origin, args = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        return fill(hint, value, where)  # pyright: ignore[reportArgumentType]
    if origin is tuple and isinstance(value, list):
        return tuple(_typed(each, args[0], f"{where}[{i}]") for i, each in enumerate(value))
    if origin is Mapping and isinstance(value, Mapping):
        return {key: _typed(each, args[1], f"{where}.{key}") for key, each in value.items()}
    if _fits(value, hint):
        return value
    raise UserError(f"{where} is {value!r}, wanted is {_told(hint)}")


def _fits(value: object, hint: object) -> bool:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, each) for each in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    # `type` instead of isinstance, because True is an int.
    return type(value) in ((int, float) if hint is float else (hint,))


def _told(hint: object) -> str:
    """Describe the values that a type hint allows."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_told(each) for each in args)
    if origin is Literal:
        return " or ".join(map(repr, args))
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    return names.get(hint, "a list" if origin is tuple else "a table")
