"""Work in threads that a signal need not wait for.

Python answers signals in its main thread, between two steps of Python: while this thread decodes a huge image, Ctrl-C
waits for seconds. A thread that only waits for others answers at once.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, wait
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Threads of this name may be busy when a program that was interrupted ends: see `cli.main`.
READER = "reader"
# Items per thread that wait or are done before anyone asks: no thread idles, and few results are held.
AHEAD = 2
# Seconds between two looks at signals: one that comes just before a thread begins to wait does not wake it.
LOOK = 0.2


def started(work: Callable[[Item], Result], item: Item) -> Future[Result]:
    """Start work(item) in a thread that the end of the process does not wait for; return its future."""
    todo: queue.SimpleQueue[tuple[Item, Future[Result]] | None] = queue.SimpleQueue()
    future: Future[Result] = Future()
    todo.put((item, future))
    todo.put(None)
    threading.Thread(target=_work, args=(work, todo), name=READER, daemon=True).start()
    return future


def awaited(future: Future[Result]) -> Result:
    """Return a future's result, or raise its exception. The main thread answers signals meanwhile."""
    while not future.done():
        wait([future], LOOK)
    return future.result()


def in_threads(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int = 1
) -> Generator[Result, None, None]:
    """Yield work(item) in the order of the items, computed ahead in threads.

    Whoever leaves early, such as by Ctrl-C, does not wait for work in progress; its results are lost.

    Args:
        work: called in a thread. Its first exception, in the order of the items, ends the iteration.
        items: iterated in the caller's thread.
        threads: how many there are.
    """
    todo: queue.SimpleQueue[tuple[Item, Future[Result]] | None] = queue.SimpleQueue()
    ahead: deque[Future[Result]] = deque()
    # Daemons: the process may end while they work.
    for _ in range(threads):
        threading.Thread(target=_work, args=(work, todo), name=READER, daemon=True).start()
    try:
        for item in items:
            ahead.append(Future())
            todo.put((item, ahead[-1]))
            if len(ahead) > AHEAD * threads:
                yield awaited(ahead.popleft())
        while ahead:
            yield awaited(ahead.popleft())
    finally:
        for future in ahead:
            future.cancel()
        for _ in range(threads):
            todo.put(None)


def _work(
    work: Callable[[Item], Result], todo: "queue.SimpleQueue[tuple[Item, Future[Result]] | None]"
) -> None:
    while job := todo.get():
        item, future = job
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(work(item))
            except BaseException as error:
                future.set_exception(error)
        # Else the last result would stay in memory.
        del job, item, future
