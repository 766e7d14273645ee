"""What differs between OpenCV 4 and 5."""

import contextlib
import threading
from collections.abc import Iterator
from types import ModuleType

import cv2

# Levels of its log: nothing, and errors alone.
SILENT, ERRORS = 0, 2


def log_level() -> int:
    """The level of OpenCV's log."""
    return int(_logging().getLogLevel())


class _Levels:
    """What the threads of the process ask of its one log; the level before comes back after the last of them."""

    def __init__(self) -> None:
        self._lock, self._before = threading.Lock(), SILENT
        self._asked: list[int] = []

    def enter(self, level: int) -> None:
        with self._lock:
            if not self._asked:
                self._before = log_level()
            self._asked.append(level)
            _set(min(self._before, *self._asked))

    def leave(self, level: int) -> None:
        with self._lock:
            self._asked.remove(level)
            _set(min((self._before, *self._asked)))


_levels = _Levels()


@contextlib.contextmanager
def logged(level: int) -> Iterator[None]:
    """Within this context OpenCV logs no more than `level`, see above; of several threads the lowest level counts."""
    _levels.enter(level)
    try:
        yield
    finally:
        _levels.leave(level)


def _logging() -> ModuleType:
    """The module that has the functions: OpenCV 4 has them at the top."""
    return getattr(cv2.utils, "logging", cv2)


def _set(level: int) -> None:
    _logging().setLogLevel(level)
