"""Stopping a run between two steps, in all processes at the same step."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
from jax.experimental.multihost_utils import reached_preemption_sync_point

FIRST = "stopping after this step and saving; a second Ctrl-C ends at once"
SECOND = "ending at once, without saving"
STDERR = 2


class EndedError(KeyboardInterrupt):
    """A second Ctrl-C: the run ends at once, and the newest checkpoint is as old as it is."""


class Request:
    """Signals of a run in one process: the first one asks to stop, a second Ctrl-C to end at once."""

    def __init__(self) -> None:
        """Nobody has asked yet."""
        self.asked = self.ended = False

    def interrupt(self, number: int, frame: object) -> None:
        """Handle Ctrl-C. Raises EndedError at the second signal."""
        self.ended = self.asked
        self.asked = True
        tell(SECOND if self.ended else FIRST)
        if self.ended:
            raise EndedError

    def terminate(self, number: int, frame: object) -> None:
        """Handle SIGTERM, which clusters may send more than once: it never ends a run without saving."""
        self.asked = True

    def stop(self, step: int) -> bool:
        """Whether to stop after a step. Raises EndedError again if a library lost the one of the handler."""
        if self.ended:
            raise EndedError
        return self.asked


@contextmanager
def stop_requested() -> Iterator[Callable[[int], bool]]:
    """Turn SIGINT and SIGTERM into a function that the loop calls after every step: it returns whether to stop.

    With several processes, perhaps only one gets the signal, but a checkpoint needs all of them. JAX's coordination
    service listens to SIGTERM, informs all processes and makes them stop after the same step.

    Raises:
        EndedError: within the context, at a second Ctrl-C. With several processes that one kills the process.
    """
    several, request = jax.process_count() > 1, Request()
    handlers = (
        {signal.SIGINT: pass_on}
        if several
        else {signal.SIGINT: request.interrupt, signal.SIGTERM: request.terminate}
    )
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield reached_preemption_sync_point if several else request.stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def pass_on(number: int, frame: object) -> None:
    """Pass Ctrl-C on as SIGTERM, the only signal that the service handles. The next Ctrl-C kills the process."""
    # No exception: on their way out of the loop checkpoints would wait for the other processes.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    tell(FIRST)
    os.kill(os.getpid(), signal.SIGTERM)


def tell(text: str) -> None:
    """Write a line to the error stream from within a handler: Python's own streams may be in the middle of a write."""
    with contextlib.suppress(OSError):
        os.write(STDERR, f"\n{text}\n".encode())
