"""Arrays in files, read on demand, and the error for files that hold none."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffbir_jax.console.errors import UserError


class CheckpointError(UserError):
    """A file is not a checkpoint, is damaged or must not be read; the message says which and what to do."""


@dataclass(frozen=True)
class Stored:
    """An array in a file. numpy reads it when it needs the values; nothing keeps them."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.read(), dtype)


State = dict[str, Stored]


def shown(text: object, limit: int = 80) -> str:
    """Text from a file as one short printable line."""
    line = "".join(c if c.isprintable() else "?" for c in str(text)[: limit + 1])
    return line if len(line) <= limit else f"{line[:limit]}..."
