"""Standard output that a run outlives."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn, TextIO


class Steady:
    """A stream that is silent once nothing can be written to it: a run goes on when its reader leaves.

    Attributes:
        error: why nothing can be written any more, or None.
    """

    def __init__(self, stream: TextIO):
        """Take the stream."""
        self._stream, self.error = stream, None

    def write(self, text: str) -> int:
        """Write, and flush whole lines, so that an error belongs to them."""
        self._attempt(self._stream.write, text)
        if "\n" in text:
            self.flush()
        return len(text)

    def flush(self) -> None:
        """Flush."""
        self._attempt(self._stream.flush)

    def __getattr__(self, name: str) -> object:
        """All else is the stream's."""
        return getattr(self._stream, name)

    def _attempt(self, work: Callable[..., object], *args: object) -> None:
        if self.error is not None:
            return
        try:
            work(*args)
        except OSError as error:
            self.error = error
            # What is still buffered would fail again when the process ends.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


def complete_streams() -> None:
    """Open the standard streams that a service started the process without: files would get their numbers."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != number and _is_closed(number):
            os.dup2(opened, number)
            os.close(opened)
            opened = number
        setattr(sys, name, open(opened, "w" if number else "r"))  # noqa: SIM115


def _is_closed(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return True
    return False


@contextlib.contextmanager
def steady_output() -> Iterator[Steady | None]:
    """Within this context standard output is `Steady`, and shows any file name; None if there is no output."""
    stream = sys.stdout
    if stream is None:
        yield None
        return
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    steady = Steady(stream)
    sys.stdout = steady  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield steady
    finally:
        sys.stdout = stream


def exit_now(code: int) -> NoReturn:
    """End the process with what was printed, without waiting for threads."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)
