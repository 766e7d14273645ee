"""Stopping a run between two steps, in all of its processes alike."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
from jax.experimental.multihost_utils import reached_preemption_sync_point


@contextmanager
def stop_requested() -> Iterator[Callable[[int], bool]]:
    """Turn SIGINT and SIGTERM into a question that the loop asks once after every step: stop here?

    Of several processes one may be told while the others are not, yet a checkpoint needs them all. There, JAX's
    coordination service, which listens to SIGTERM, passes the word on and lets all stop after the same step.
    """
    several, flag = jax.process_count() > 1, [False]

    def request(signum: int, frame: object) -> None:
        flag[0] = True

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
