"""Threads beside the computation: bounds, order, errors."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from diffbir_jax.batch.ahead import Budget, ReadAhead, Writers


def settle(count: Callable[[], int], expected: int) -> int:
    """The number that threads come to: that expected, however long it takes them, unless they go on."""
    limit = time.monotonic() + 300
    while count() < expected and time.monotonic() < limit:
        time.sleep(0.002)
    time.sleep(0.05)
    return count()


def test_a_budget_bounds_files_and_pixels() -> None:
    budget, held = Budget(files=3, pixels=100), []

    def hold() -> None:
        for pixels in (60, 30, 20, 5, 5, 500):
            if budget.acquire(pixels):
                held.append(pixels)

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    assert settle(lambda: len(held), 2) == 2, "60 + 30 + 20 are too many pixels"
    budget.release(60)
    assert settle(lambda: len(held), 4) == 4, "30 + 20 + 5 are all files that there is room for"
    budget.release(30)
    assert settle(lambda: len(held), 5) == 5
    budget.release(20)
    budget.release(5)
    assert settle(lambda: len(held), 5) == 5, "500 is too much beside anything"
    budget.release(5)
    assert settle(lambda: len(held), 6) == 6, "alone it may be as large as it is"
    thread.join(300)
    assert not thread.is_alive()


def test_a_closed_budget_holds_nobody() -> None:
    budget = Budget(files=1, pixels=1)
    assert budget.acquire(1)
    threading.Timer(0.05, budget.close).start()
    assert not budget.acquire(1)


@pytest.mark.parametrize("files, held, ahead", [(4, 10**6, 4), (100, 30, 3)])
def test_reading_stays_a_few_files_ahead(files: int, held: int, ahead: int) -> None:
    """One more is read and waits for room."""
    read = []
    reading = ReadAhead(itertools.count(), lambda i: read.append(i) or i, lambda _: 10, files, held)
    assert settle(lambda: len(read), ahead + 1) == ahead + 1
    assert [next(reading) for _ in range(3)] == [0, 1, 2]
    assert settle(lambda: len(read), ahead + 4) == ahead + 4
    reading.stop()
    assert list(reading) == list(range(3, ahead + 3))


def test_reading_goes_on_where_a_taker_failed() -> None:
    reading = ReadAhead(range(5), lambda i: i, lambda _: 1)

    def take() -> Iterator[int]:
        yield from reading

    first = take()
    assert next(first) == 0
    first.close()
    assert list(take()) == [1, 2, 3, 4]
    assert list(reading) == []


def test_errors_of_reading_reach_the_taker() -> None:
    reading = ReadAhead([2, 1, 0], lambda i: 1 // i, lambda _: 1)
    assert [next(reading), next(reading)] == [0, 1]
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            next(reading)


def test_writers_are_bounded() -> None:
    """Whoever computes waits for them, rather than to fill the memory."""
    go, submitted = threading.Event(), []
    with Writers(threads=1, held=1000) as writers:

        def submit() -> None:
            for i in range(4):
                writers.submit(lambda: go.wait(300) and None, 10)
                submitted.append(i)

        thread = threading.Thread(target=submit)
        thread.start()
        assert settle(lambda: len(submitted), 2) == 2
        go.set()
        thread.join(300)
    assert len(submitted) == 4


def test_what_waits_for_room_is_written_in_spite_of_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    done = []
    monkeypatch.setattr(Budget, "acquire", interrupted)
    with pytest.raises(KeyboardInterrupt), Writers() as writers:
        writers.submit(lambda: done.append(1), 1)
    assert done == [1]


def test_leaving_waits_for_writers_and_tells_of_bugs() -> None:
    done = []

    def work() -> None:
        time.sleep(0.05)
        done.append(1)

    with pytest.raises(KeyError), Writers(threads=2) as writers:
        writers.submit(work, 1)
        writers.submit(work, 1)
        writers.submit({}.popitem, 1)  # KeyError
    assert len(done) == 2
    with Writers() as writers:
        writers.submit({}.popitem, 1)
        settle(lambda: writers._bug is not None, 1)
        with pytest.raises(KeyError):
            writers.submit(work, 1)
        writers._bug = None
    with pytest.raises(ValueError, match="mine"), Writers() as writers:
        writers.submit({}.popitem, 1)
        raise ValueError("mine")
