"""Signals that end a program."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def _handled(handlers: dict[int, Any]) -> Iterator[None]:
    """Within this context signals have these handlers. In other threads than the main one nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def terminable() -> contextlib.AbstractContextManager[None]:
    """Within this context SIGTERM interrupts as Ctrl-C does: ended by a batch system, a run leaves as little behind.

    Programs that handle signals in another way do so inside.
    """
    return _handled({signal.SIGTERM: signal.default_int_handler})


def undisturbed() -> contextlib.AbstractContextManager[None]:
    """Within this context Ctrl-C and SIGTERM do nothing: for the last moment of work that should be whole."""
    return _handled(dict.fromkeys((signal.SIGINT, signal.SIGTERM), signal.SIG_IGN))
