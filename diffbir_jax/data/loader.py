"""Batches from a source of any size, made by Grain's threads or processes; docs/loader.md states their guarantees."""

import os
import signal
import sys
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import parent_process

import cv2
import grain
import numpy as np
from absl import flags, logging

from diffbir_jax.console.errors import UserError
from diffbir_jax.data.batches import Batches, HostBatch, prefetch
from diffbir_jax.data.example import DataError
from diffbir_jax.data.items import Item, Items
from diffbir_jax.data.order import FEW

# The share of broken examples is checked after this many examples, or after an epoch if that is earlier.
JUDGED_FROM = 1000
# Finished items that wait in each worker (or in this process, without workers): enough to cover a slow item.
WAITING = 8
# Niceness added to the loader's threads, so that the training step gets the CPU first. While the step's threads run
# without a pause, each loader thread gets a tenth of their time. The idle class gets nothing beside other programs.
NICER = 10


@dataclass(frozen=True)
class Loader(Batches):
    """Batches of `items`; batch k of all hosts together is a pure function of (seed, k).

    Attributes:
        items: the items.
        batch_size: items in the batch of all hosts together.
        host: index of this host. It gets the contiguous part `host` of each batch.
        hosts: number of hosts.
        workers: processes that make items; 0 makes them in threads of this process, at a lower priority (on Linux).
        threads: threads of this process or of each worker.
        ahead: number of batches prepared ahead.
        max_broken: share of the source that may be broken (0 to 1).
        recipe: digest of the settings that turn an example into an item, for `identity`.

    Raises:
        ValueError: settings are not allowed; the message lists all of them.
    """

    items: Items
    batch_size: int
    host: int = 0
    hosts: int = 1
    workers: int = 0
    threads: int = 2
    ahead: int = 2
    max_broken: float = 0.01
    recipe: str = ""
    broken: dict[int, str] = field(default_factory=dict, init=False, compare=False)

    def __post_init__(self) -> None:
        counts = {"batch_size": 1, "workers": 0, "threads": 1, "ahead": 1}
        problems = [
            f"data.{name} is {getattr(self, name)}, must be at least {least}"
            for name, least in counts.items()
            if getattr(self, name) < least
        ]
        if self.batch_size % self.hosts:
            problems.append(
                f"data.batch_size is {self.batch_size}, must be a multiple of the {self.hosts} hosts"
            )
        if not 0 <= self.max_broken <= 1:
            problems.append(f"data.max_broken is {self.max_broken}, must be in [0, 1]")
        if problems:
            raise UserError("; ".join(problems))

    def __call__(self, step: int) -> HostBatch:
        """Make this host's part of batch `step` in the calling thread; broken examples are logged.

        Returns:
            `hq`, `lq` (B, S, S, 3) in the items' dtype and `prompt` (B,) str, those that the items have. B is this
            host's part of the batch size.
        """
        rows = [self._item(number) for number in range(step * self._part, (step + 1) * self._part)]
        for message in self._note(rows):
            logging.warning("another example takes the place of a broken one: %s", message)
        return _stack(rows)

    def iterate(self, first: int, last: int) -> Generator[HostBatch, None, None]:
        """Yield the batches `first` to `last` - 1; closing the generator ends threads and processes.

        Raises:
            DataError: too many examples are broken, one failed, or a worker died.
        """
        with self._stream(first, last) as items:

            def collect(step: int) -> HostBatch:
                rows = [_next(items) for _ in range(self._part)]
                self._note(rows)
                self._judge(step)
                return _stack(rows)

            yield from prefetch(collect, first, last, self.ahead)

    @property
    def identity(self) -> dict[str, int | str]:
        """Seed, batch size, source, recipe and kind of order. Hosts, workers and threads may change."""
        examples = len(self.items.source)
        # Large sources have no entry: so runs from before this kind of order can still be resumed.
        drawn_as_a_whole = {"order": "by-epoch"} if examples <= FEW else {}
        return {
            "seed": self.items.seed,
            "batch_size": self.batch_size,
            "source": self.items.source.fingerprint,
            "examples": examples,
            "recipe": self.recipe,
        } | drawn_as_a_whole

    def remember(self, broken: Mapping[int, str]) -> None:
        """Add an earlier run's broken examples to `broken`."""
        self.broken.update(broken)

    @property
    def _part(self) -> int:
        """Number of this host's items in a batch."""
        return self.batch_size // self.hosts

    def _item(self, number: int) -> Item:
        """Return item `number` of this host."""
        step, row = divmod(number, self._part)
        return self.items(step * self.batch_size + self.host * self._part + row)

    def _item_aside(self, number: int) -> Item:
        """Return `_item`, in a thread of lower priority than the training step."""
        if sys.platform == "linux":  # 0 is the calling thread here, elsewhere the process
            with suppress(PermissionError):
                lower = os.getpriority(os.PRIO_PROCESS, os.getpid()) + NICER
                os.setpriority(os.PRIO_PROCESS, 0, min(lower, 19))
        return self._item(number)

    @contextmanager
    def _stream(self, first: int, last: int) -> Iterator[Iterator[Item]]:
        """Yield an iterator over the items of the batches `first` to `last` - 1, made ahead."""
        numbers = grain.MapDataset.range(first * self._part, last * self._part)
        make = self._item if self.workers else self._item_aside
        stream = numbers.map(make).to_iter_dataset(grain.ReadOptions(self.threads, WAITING))
        if self.workers:
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()  # Grain reads its absl flags, also in programs that parse none
            options = grain.MultiprocessingOptions(self.workers, per_worker_buffer_size=WAITING)
            stream = stream.mp_prefetch(options, worker_init_fn=_begin_worker)
        iterator = iter(stream)
        try:
            yield iterator
        finally:
            iterator.close()

    def _note(self, rows: list[Item]) -> list[str]:
        """Remove `broken` from the rows and record it; return the messages that are new."""
        found = dict(pair for row in rows for pair in row.pop("broken"))
        new = [message for index, message in found.items() if index not in self.broken]
        self.broken.update(found)
        return new

    def _judge(self, step: int) -> None:
        """Raise DataError if too many of the examples up to and including batch `step` were broken."""
        examples = len(self.items.source)
        seen = min((step + 1) * self._part, examples)
        judged = seen >= min(JUDGED_FROM, max(examples // self.hosts, 1))
        if judged and len(self.broken) > self.max_broken * seen:
            first = "; ".join(list(self.broken.values())[:3])
            raise DataError(
                f"{len(self.broken)} of {seen} examples are broken, more than data.max_broken = {self.max_broken:g} "
                f"allows: {first}. Remove them or prepare the data set again"
            )


def _next(items: Iterator[Item]) -> Item:
    try:
        return next(items)
    except RuntimeError as error:  # Grain raises it for a dead process; items raise only DataError
        raise DataError(
            f"a data worker ended ({error}); if memory ran out, lower data.workers or data.threads"
        ) from error


def _stack(rows: list[Item]) -> HostBatch:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _begin_worker(index: int, count: int) -> None:
    """Set up a worker: it ignores signals, ends with the main process, and uses one OpenCV thread."""
    # The main process handles the signals and ends its workers; otherwise each prints a traceback.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # Each worker already fills a core; more OpenCV threads would only compete.
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        # A killed main process cannot end its workers.
        parent.join()
        os._exit(1)
