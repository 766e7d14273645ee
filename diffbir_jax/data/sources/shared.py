"""Shared code of sources: per-process handles, optional packages, digests, positions."""

import hashlib
import importlib
import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Generic, TypeVar

from diffbir_jax.data.example import DataError

T = TypeVar("T")


class PerProcess(Generic[T]):
    """A handle that each process opens on first use, because handles do not survive a fork or a pickle.

    If several threads make the first call at once, each may open a handle; the last one stays.
    """

    def __init__(self, opener: Callable[[], T]):
        """Take the function that opens; it must be picklable."""
        self._opener = opener
        self._held: tuple[int, T | None] = (0, None)

    def __call__(self) -> T:
        """Return the handle of this process."""
        process, handle = self._held
        if handle is None or process != os.getpid():
            handle = self._opener()
            self._held = (os.getpid(), handle)
        return handle

    def __getstate__(self) -> dict[str, object]:
        return {"_opener": self._opener, "_held": (0, None)}


def extra(module: str, needed_for: str) -> ModuleType:
    """Import a module of the extra `data`.

    Raises:
        DataError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(f"{needed_for} need {module} ({error}): pip install 'diffbir-jax[data]'") from None


def part_of(ends: Sequence[int], index: int) -> tuple[int, int]:
    """Return the part that holds example `index` of the whole, and the example's index within that part.

    Args:
        ends: number of examples up to the end of each part.
        index: 0 .. `ends[-1]` - 1.
    """
    which = bisect_right(ends, index)
    return which, index - (ends[which - 1] if which else 0)


def digest(parts: Iterable[object]) -> str:
    """Return a hexadecimal digest (BLAKE2b, 128 bits) of the texts of `parts`, in their order."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        # A zero byte separates the parts; no path and no caption contains one.
        state.update(f"{part}\0".encode("utf-8", "surrogateescape"))
    return state.hexdigest()
