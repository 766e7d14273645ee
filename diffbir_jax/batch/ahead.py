"""Threads beside the computation: reading ahead of it and writing behind it, both within bounds of memory."""

import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

FILES_AHEAD = 4
# Of all images held on one side of the computation: 64 million pixels of 8-bit RGB are 192 MB.
PIXELS_HELD = 2**26
WRITERS = max(2, min(8, os.cpu_count() or 2))


class Budget:
    """Files and pixels that may be held at a time; a single file may be larger than the budget."""

    def __init__(self, files: int, pixels: int):
        self._limits, self._held = (files, pixels), [0, 0]
        self._changed, self._closed = threading.Condition(), False

    def acquire(self, pixels: int) -> bool:
        """Wait until one more file of so many pixels has room, and hold it; False if the budget was closed instead."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._has_room(pixels))
            if not self._closed:
                self._held = [self._held[0] + 1, self._held[1] + pixels]
            return not self._closed

    def _has_room(self, pixels: int) -> bool:
        files, held = self._held
        return files == 0 or (files < self._limits[0] and held + pixels <= self._limits[1])

    def release(self, pixels: int) -> None:
        """Let go of a file."""
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

    An iterator and not a generator: whoever takes a part of it and fails leaves the rest to be taken.
    """

    def __init__(
        self,
        items: Iterable[Item],
        read: Callable[[Item], Result],
        pixels: Callable[[Result], int],
        files: int = FILES_AHEAD,
        held: int = PIXELS_HELD,
    ):
        """Begin to read.

        Args:
            items: what to read.
            read: reads one; what it raises is raised by `next`, and ends the iteration.
            pixels: tells the size of a result.
            files: results held at most, besides one being read.
            held: their pixels at most, unless a single one is larger.
        """
        self._budget, self._size = Budget(files, held), pixels
        self._queue: queue.SimpleQueue[tuple[Result | None, BaseException | None]] = queue.SimpleQueue()
        # A daemon: a file system that hangs keeps nobody from leaving.
        self._thread = threading.Thread(target=self._work, args=(items, read), name="reader", daemon=True)
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
        """Return the next result; its pixels no longer count as held."""
        result, error = self._queue.get()
        if error is not None:
            self._queue.put((None, error))
            raise error
        assert result is not None
        self._budget.release(self._size(result))
        return result

    # Not named `close`, which `yield from` calls when it is left early.
    def stop(self) -> None:
        """Stop reading; what was read can still be taken."""
        self._budget.close()


class Writers:
    """A pool of threads that write; leaving its context waits for what was submitted."""

    def __init__(self, threads: int = WRITERS, held: int = PIXELS_HELD):
        """Set bounds: two files per thread, and so many pixels unless a single file has more."""
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="writer")
        self._budget = Budget(2 * threads, held)
        self._bug: BaseException | None = None

    def submit(self, work: Callable[[], None], pixels: int) -> None:
        """Have `work` done as soon as there is room; what an earlier one raised is raised here."""
        if self._bug is not None:
            raise self._bug
        try:
            self._budget.acquire(pixels)
        finally:
            # Ctrl-C while waiting for room: what is computed is written nevertheless.
            self._pool.submit(self._do, work, pixels)

    def _do(self, work: Callable[[], None], pixels: int) -> None:
        try:
            work()
        except BaseException as error:
            self._bug = self._bug or error
        finally:
            self._budget.release(pixels)

    def finish(self) -> None:
        """Wait until all is written; nothing can be submitted any more."""
        self._pool.shutdown(wait=True)

    def __enter__(self) -> "Writers":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.finish()
        if self._bug is not None and kind is None:
            raise self._bug
