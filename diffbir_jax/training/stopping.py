"""Stopping a run between two steps, in all processes at the same step."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
from jax.experimental.multihost_utils import reached_preemption_sync_point


@contextmanager
def stop_requested() -> Iterator[Callable[[int], bool]]:
    """Turn SIGINT and SIGTERM into a function that the loop calls after every step: it returns whether to stop.

    With several processes, perhaps only one gets the signal, but a checkpoint needs all of them. JAX's coordination
    service listens to SIGTERM, informs all processes and makes them stop after the same step.
    """
    several, flag = jax.process_count() > 1, [False]

    def request(signum: int, frame: object) -> None:
        flag[0] = True

    # The service handles SIGTERM only, so Ctrl-C is passed on as that.
    def pass_on(signum: int, frame: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    handlers = (
        {signal.SIGINT: pass_on} if several else dict.fromkeys((signal.SIGINT, signal.SIGTERM), request)
    )
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield reached_preemption_sync_point if several else lambda step: flag[0]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
