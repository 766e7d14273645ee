"""Signals that end a program."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import NoReturn

Handler = Callable[[int, FrameType | None], object] | signal.Handlers


@contextlib.contextmanager
def _handled(handlers: Mapping[int, Handler]) -> Iterator[None]:
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


class Told:
    """Whether a signal has asked the program to end: libraries may lose an exception that a handler raises."""

    def __init__(self) -> None:
        """Nobody has asked yet."""
        self.asked = False

    def interrupt(self, number: int, frame: FrameType | None) -> NoReturn:
        """Handle a signal."""
        self.asked = True
        raise KeyboardInterrupt

    def heed(self) -> None:
        """Raise KeyboardInterrupt if a signal came and its exception was lost."""
        if self.asked:
            raise KeyboardInterrupt


told = Told()


@contextlib.contextmanager
def terminable() -> Iterator[Told]:
    """Within this context SIGTERM interrupts as Ctrl-C does: ended by a batch system, a run leaves as little behind.

    Programs that handle signals in another way do so inside. Ctrl-C stays ignored where it is, as in the background.
    """
    told.asked = False
    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        numbers.append(signal.SIGINT)
    hook, sys.unraisablehook = sys.unraisablehook, _without_interrupts(sys.unraisablehook)
    try:
        with _handled(dict.fromkeys(numbers, told.interrupt)):
            yield told
    finally:
        sys.unraisablehook = hook


def _without_interrupts(
    hook: Callable[["sys.UnraisableHookArgs"], object],
) -> Callable[["sys.UnraisableHookArgs"], object]:
    """The same, silent on exceptions of our signals that a library loses: `Told.heed` raises them again."""
    return lambda lost: None if isinstance(lost.exc_value, KeyboardInterrupt) else hook(lost)


def end_at_once() -> None:
    """From now on Ctrl-C ends the process without a traceback: an interrupted program has nothing left to save.

    Else libraries that clean up when Python ends would be broken off, and Python would show it.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        with contextlib.suppress(ValueError):  # in another thread than the main one
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def undisturbed() -> contextlib.AbstractContextManager[None]:
    """Within this context Ctrl-C and SIGTERM do nothing: for the last moment of work that should be whole."""
    return _handled(dict.fromkeys((signal.SIGINT, signal.SIGTERM), signal.SIG_IGN))
