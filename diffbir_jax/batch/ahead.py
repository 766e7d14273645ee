"""Threads beside the computation: they read ahead and write behind, within bounds of memory."""

import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from diffbir_jax.console.threads import READER

Item = TypeVar("Item")
Result = TypeVar("Result")

FILES_AHEAD = 4
# Limit for all images held on one side of the computation: 64 million pixels of 8-bit RGB are 192 MB.
PIXELS_HELD = 2**26
WRITERS = max(2, min(8, os.cpu_count() or 2))


class Budget:
    """Files and pixels that may be held at once. A single file may be larger than the budget."""

    def __init__(self, files: int, pixels: int):
        self._limits, self._held = (files, pixels), [0, 0]
        self._changed, self._closed = threading.Condition(), False

    def acquire(self, pixels: int) -> bool:
        """Wait until there is room for one more file of `pixels` pixels, and hold it; False if the budget is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._has_room(pixels))
            if not self._closed:
                self._held = [self._held[0] + 1, self._held[1] + pixels]
            return not self._closed

    def _has_room(self, pixels: int) -> bool:
        files, held = self._held
        return files == 0 or (files < self._limits[0] and held + pixels <= self._limits[1])

    def release(self, pixels: int) -> None:
        """Release a file."""
        with self._changed:
            self._held = [self._held[0] - 1, self._held[1] - pixels]
            self._changed.notify_all()

    def close(self) -> None:
        """End all waiting."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class ReadAhead(Iterator[Result], Generic[Item, Result]):
    """Iterates over `read(item)`, computed in a thread a few items ahead.

    It is an iterator, not a generator: if a consumer fails, another one can take the rest.
    """

    def __init__(
        self,
        items: Iterable[Item],
        read: Callable[[Item], Result],
        pixels: Callable[[Result], int],
        files: int = FILES_AHEAD,
        held: int = PIXELS_HELD,
    ):
        """Start reading.

        Args:
            items: what to read.
            read: reads one item. `next` raises its errors, and an error ends the iteration.
            pixels: returns the size of a result.
            files: most results held, besides the one that is being read.
            held: most pixels held, unless a single result has more.
        """
        self._budget, self._size = Budget(files, held), pixels
        self._queue: queue.SimpleQueue[tuple[Result | None, BaseException | None]] = queue.SimpleQueue()
        # A daemon: a file system that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, args=(items, read), name=READER, daemon=True)
        self._thread.start()

    def _work(self, items: Iterable[Item], read: Callable[[Item], Result]) -> None:
        try:
            for item in items:
                result = read(item)
                if not self._budget.acquire(self._size(result)):
                    break
                self._queue.put((result, None))
            self._queue.put((None, StopIteration()))
        except BaseException as error:
            self._queue.put((None, error))

    def __next__(self) -> Result:
        """Return the next result. Its pixels no longer count as held."""
        result, error = self._queue.get()
        if error is not None:
            self._queue.put((None, error))
            raise error
        assert result is not None
        self._budget.release(self._size(result))
        return result

    # Not named `close`: `yield from` calls a method of that name when it is left early.
    def stop(self) -> None:
        """Stop reading; results that are already read can still be taken."""
        self._budget.close()


class Writers:
    """A pool of threads that write. The context waits at its end for all submitted work."""

    def __init__(self, threads: int = WRITERS, held: int = PIXELS_HELD):
        """Set the bounds: two files per thread, and `held` pixels unless a single file has more."""
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="writer")
        self._budget = Budget(2 * threads, held)
        self._bug: BaseException | None = None

    def submit(self, work: Callable[[], None], pixels: int) -> None:
        """Run `work` as soon as there is room; raise errors of earlier work here."""
        if self._bug is not None:
            raise self._bug
        try:
            self._budget.acquire(pixels)
        finally:
            # After Ctrl-C during the wait for room, write the computed result nevertheless.
            self._pool.submit(self._do, work, pixels)

    def _do(self, work: Callable[[], None], pixels: int) -> None:
        try:
            work()
        except BaseException as error:
            self._bug = self._bug or error
        finally:
            self._budget.release(pixels)

    def finish(self) -> None:
        """Wait until everything is written; after that nothing can be submitted."""
        self._pool.shutdown(wait=True)

    def __enter__(self) -> "Writers":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.finish()
        if self._bug is not None and kind is None:
            raise self._bug
