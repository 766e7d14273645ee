"""Arrays in files, read on demand, and the error for files that hold none."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import DTypeLike

from diffbir_jax.console.errors import UserError
from diffbir_jax.console.plain import shown

LONGEST_KEY = 500


class CheckpointError(UserError):
    """A file is not a checkpoint, is damaged or must not be read; the message says which and what to do."""


class Shaped(Protocol):
    """What numpy can read as an array, and what is known of it before: an array itself, or `Stored`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sides."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """Its type."""
        ...


@dataclass(frozen=True)
class Stored:
    """An array in a file. numpy reads it when it needs the values; nothing keeps them."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.read(), dtype)


State = dict[str, Stored]


def check_key(path: Path, name: str) -> None:
    """Refuse a key that no network has.

    Raises:
        CheckpointError: it is longer than `LONGEST_KEY`, or has characters that cannot be printed.
    """
    if len(name) > LONGEST_KEY or not name.isprintable():
        raise CheckpointError(f"{path}: {shown(name)!r} is no name of a weight: the file is damaged")
