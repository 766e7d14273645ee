"""Fields of dataclasses that callers fill: a value of another type is one line, not an error deep inside."""

import functools
import types
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Union, get_args, get_origin, get_type_hints

import numpy as np

from diffbir_jax.console.errors import UserError

# What a field of a type takes, and how a message calls it.
KINDS: dict[type, tuple[tuple[type, ...], str]] = {
    float: ((Real,), "numbers"),
    int: ((Integral,), "whole numbers"),
    str: ((str,), "texts"),
    bool: ((bool, np.bool_), "True and False"),
}


def check_fields(record: object, allowed: Mapping[str, str] | None = None) -> None:
    """Raise UserError if a number, a text or a switch of a dataclass has another type; other fields may hold anything.

    Args:
        record: the instance.
        allowed: by the names of fields, what their values may be, in words; else the message names the type.
    """
    for name, hint in _hints(type(record)).items():
        value = getattr(record, name)
        if words := missed(value, hint):
            raise UserError(f"{name} is {value!r}; allowed are {(allowed or {}).get(name, words)}")


def missed(value: object, hint: object) -> str:
    """What a type allows, in words, if `value` is none of it; else "".

    Args:
        value: any.
        hint: a type of `KINDS`, or a union of one and None; others allow anything.
    """
    inside = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    known = [KINDS[each] for each in inside if isinstance(each, type) and each in KINDS]
    empty = type(None) in inside
    if not known or (value is None and empty) or any(isinstance(value, types_) for types_, _ in known):
        return ""
    return " and ".join([word for _, word in known] + ["None"] * empty)


@functools.cache
def _hints(kind: type) -> dict[str, object]:
    return get_type_hints(kind)
