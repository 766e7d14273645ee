"""What differs between OpenCV 4 and 5."""

import contextlib
from collections.abc import Iterator
from types import ModuleType

import cv2

# Levels of its log: nothing, and errors alone.
SILENT, ERRORS = 0, 2


def log_level() -> int:
    """The level of OpenCV's log."""
    return int(_logging().getLogLevel())


@contextlib.contextmanager
def logged(level: int) -> Iterator[None]:
    """Within this context OpenCV logs no more than `level`, see above."""
    before = log_level()
    _set(level)
    try:
        yield
    finally:
        _set(before)


def _logging() -> ModuleType:
    """The module that has the functions: OpenCV 4 has them at the top."""
    return getattr(cv2.utils, "logging", cv2)


def _set(level: int) -> None:
    _logging().setLogLevel(level)
