"""What processes open for themselves, and packages that not everybody needs."""

import importlib
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any, Generic, TypeVar

from diffbir_jax.data.example import DataError

T = TypeVar("T")


class PerProcess(Generic[T]):
    """A handle that each process opens on first use: what a fork inherits and what a pickle could hold is of no use.

    Threads that come first at the same time may each open one; the last stays.
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

    def __getstate__(self) -> dict[str, Any]:
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
