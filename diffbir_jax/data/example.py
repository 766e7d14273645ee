"""What a data source yields, and what may go wrong with it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from diffbir_jax.console.errors import UserError


class DataError(UserError):
    """A data set that cannot be used; the message says what was given and what to do."""


class BrokenExampleError(Exception):
    """One example that cannot be read; a loader puts another one in its place."""


@dataclass(frozen=True)
class Example:
    """One image of a source.

    Attributes:
        name: where it comes from, for messages: a path, or a shard and the key within.
        image: the bytes of an image file, or pixels (H, W, 3) uint8 RGB.
        captions: texts by kind, `short` and `long`; empty where the source has none.
    """

    name: str
    image: bytes | np.ndarray
    captions: Mapping[str, str] = field(default_factory=dict)


class Source(Protocol):
    """Random access to a set of images. Implementations can be pickled: worker processes get a copy."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example:
        """Return example `index` (0 .. len - 1).

        Raises:
            BrokenExampleError: it cannot be read; the message names it.
        """
        ...

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digest of what the source lists, in its order: a resumed run must find the same."""
        ...
