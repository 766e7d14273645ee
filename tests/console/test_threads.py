"""Work in threads: in order, and nobody waits for it after a signal."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from diffbir_jax.console.threads import AHEAD, in_threads


@pytest.fixture
def heeded() -> Iterator[None]:
    """Ctrl-C interrupts, even if the tests run in the background, where shells have it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_order_a_few_ahead(threads: int) -> None:
    asked: list[int] = []
    items = (asked.append(i) or i for i in range(50))
    for number, result in enumerate(in_threads(lambda i: i * i, items, threads)):
        assert result == number**2 and len(asked) <= number + 1 + AHEAD * threads
    assert len(asked) == 50


def test_the_first_error_in_order_is_raised() -> None:
    """Whichever thread is faster."""
    late = threading.Event()

    def work(i: int) -> float:
        if i == 3:
            late.wait(60)
        if i == 4:
            late.set()
        return 1 / (i - 3) if i != 4 else int("x")

    found = in_threads(work, range(9), 2)
    assert [next(found) for _ in range(3)] == [-1 / 3, -1 / 2, -1]
    with pytest.raises(ZeroDivisionError):
        next(found)


@pytest.mark.usefixtures("heeded")
@pytest.mark.parametrize("wakes", [True, False])
def test_a_signal_does_not_wait_for_work(wakes: bool) -> None:
    """As for a huge image: the thread is in the middle of it when the signal comes, and still there afterwards.

    The system may give a signal to any thread that takes it, and then does not wake the main one.
    """
    free, ended = threading.Event(), threading.Event()

    def work(_: int) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        os.kill(os.getpid(), signal.SIGINT)
        free.wait(60)
        ended.set()

    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK if wakes else signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with pytest.raises(KeyboardInterrupt):
            list(in_threads(work, range(2)))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    assert not ended.is_set()
    free.set()
    assert ended.wait(60)
