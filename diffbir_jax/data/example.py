"""The examples that a data source yields, and its errors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from diffbir_jax.console.errors import UserError


class DataError(UserError):
    """A data set cannot be used; the message says what was given and what to do."""


class BrokenExampleError(Exception):
    """One example cannot be read; a loader replaces it by another one.

    Attributes:
        name: of the example, as `Example` has it, or "" where only the message says it.
    """

    def __init__(self, message: str, name: str = ""):
        """Take the message and the name."""
        super().__init__(message, name)
        self.name = name

    def __str__(self) -> str:
        """The message alone."""
        return self.args[0]


@dataclass(frozen=True)
class Example:
    """One image of a source.

    Attributes:
        name: its origin, for messages: a path, or a shard and the key within it.
        image: the bytes of an image file, or pixels (H, W, 3) uint8 RGB.
        captions: texts by kind, `short` and `long`; empty if the source has none.
        lq: the degraded image of a pair, like `image`; None if the image is to be degraded.
        fault: what is wrong with a caption that is therefore left out; "" if nothing.
    """

    name: str
    image: bytes | np.ndarray
    captions: Mapping[str, str] = field(default_factory=dict)
    lq: bytes | np.ndarray | None = None
    fault: str = ""


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
        """Hexadecimal digest of the list of examples, in order; it must be the same when a run is resumed."""
        ...
