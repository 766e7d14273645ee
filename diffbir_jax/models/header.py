"""The description of a network in the header of its weights file; with it the file alone can rebuild the network."""

import dataclasses
import json
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")


def describe(family: str, config: "DataclassInstance") -> dict[str, str]:
    """Return the strings to store: `family`, and `config`, the fields of a dataclass of sizes as JSON."""
    return {"family": family, "config": json.dumps(dataclasses.asdict(config))}


def revive(kind: type[T], text: str) -> T:
    """Return the sizes, as the dataclass `kind`, that `describe` stored as `config`.

    Raises:
        ValueError: the text is not such a description.
    """
    try:
        fields = json.loads(text)
        # JSON has no tuples, and a list would make the frozen dataclass unhashable.
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{text!r} does not describe a {kind.__name__}: {error}") from error
