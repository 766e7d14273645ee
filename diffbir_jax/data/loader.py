"""Batches of a source of any size, made by threads or processes of Grain; docs/loader.md says what they promise."""

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

# The share of broken examples is judged from here on, or after an epoch.
JUDGED_FROM = 1000
# Items that wait in each worker, or in the threads of this process: enough to bridge one that takes long.
WAITING = 8
# How much nicer than the process its own threads are that make items: they get a tenth of what a step's threads get
# where these run without a pause. In the idle class they would get nothing beside other programs.
NICER = 10


@dataclass(frozen=True)
class Loader(Batches):
    """Batches of `items`; batch k of all hosts together is a pure function of (seed, k).

    Attributes:
        items: what batches are made of.
        batch_size: items in a batch of all hosts together.
        host: index of this host, which gets that contiguous part of each batch.
        hosts: how many there are.
        workers: processes that make items; 0 lets threads of this process do it, at a lower priority (on Linux).
        threads: of this process or of each worker.
        ahead: batches prepared before they are asked for.
        max_broken: share of the source that may be broken.
        recipe: what names the way from example to item, for `identity`.

    Raises:
        ValueError: a setting that cannot work; all of them are listed.
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
        """Return this host's part of batch `step`, made here and now; what was broken is logged.

        Returns:
            `hq` and `lq` (B, S, S, 3) of the items' dtype, B being this host's part, and `prompt` (B,) str; as the
            items have them.
        """
        rows = [self._item(number) for number in range(step * self._part, (step + 1) * self._part)]
        for message in self._note(rows):
            logging.warning("another example takes the place of a broken one: %s", message)
        return _stack(rows)

    def iterate(self, first: int, last: int) -> Generator[HostBatch, None, None]:
        """Yield the batches `first` to `last` - 1; closing ends threads and processes.

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
        """Seed, batch size, source, recipe and kind of order; hosts, workers and threads may change."""
        examples = len(self.items.source)
        drawn_as_a_whole = {"order": "by-epoch"} if examples <= FEW else {}
        return {
            "seed": self.items.seed,
            "batch_size": self.batch_size,
            "source": self.items.source.fingerprint,
            "examples": examples,
            "recipe": self.recipe,
        } | drawn_as_a_whole

    def remember(self, broken: Mapping[int, str]) -> None:
        """Add to `broken` what an earlier run found."""
        self.broken.update(broken)

    @property
    def _part(self) -> int:
        """Items of a batch that are this host's."""
        return self.batch_size // self.hosts

    def _item(self, number: int) -> Item:
        """The `number`-th item of this host."""
        step, row = divmod(number, self._part)
        return self.items(step * self.batch_size + self.host * self._part + row)

    def _item_aside(self, number: int) -> Item:
        """`_item`, in a thread that gives way to the step where both want the same processor."""
        if sys.platform == "linux":  # where 0 is the calling thread; elsewhere it is the whole process
            with suppress(PermissionError):
                lower = os.getpriority(os.PRIO_PROCESS, os.getpid()) + NICER
                os.setpriority(os.PRIO_PROCESS, 0, min(lower, 19))
        return self._item(number)

    @contextmanager
    def _stream(self, first: int, last: int) -> Iterator[Iterator[Item]]:
        """Items of the batches `first` to `last` - 1, made ahead."""
        numbers = grain.MapDataset.range(first * self._part, last * self._part)
        make = self._item if self.workers else self._item_aside
        stream = numbers.map(make).to_iter_dataset(grain.ReadOptions(self.threads, WAITING))
        if self.workers:
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()  # Grain reads flags of its own, in programs that have none, too
            options = grain.MultiprocessingOptions(self.workers, per_worker_buffer_size=WAITING)
            stream = stream.mp_prefetch(options, worker_init_fn=_begin_worker)
        iterator = iter(stream)
        try:
            yield iterator
        finally:
            iterator.close()

    def _note(self, rows: list[Item]) -> list[str]:
        """Take what `rows` report as broken out of them; returns what was not known before."""
        found = dict(pair for row in rows for pair in row.pop("broken"))
        new = [message for index, message in found.items() if index not in self.broken]
        self.broken.update(found)
        return new

    def _judge(self, step: int) -> None:
        """Raise DataError if too much of what was seen, batch `step` included, was broken."""
        examples = len(self.items.source)
        seen = min((step + 1) * self._part, examples)
        judged = seen >= min(JUDGED_FROM, max(examples // self.hosts, 1))
        if judged and len(self.broken) > self.max_broken * seen:
            first = "; ".join(list(self.broken.values())[:3])
            raise DataError(
                f"{len(self.broken)} of {seen} examples are broken, more than data.max_broken = {self.max_broken:g} "
                f"allows: {first}. Take them out or prepare the data set anew"
            )


def _next(items: Iterator[Item]) -> Item:
    try:
        return next(items)
    except RuntimeError as error:  # Grain's, for a process that is gone: items raise nothing but DataError
        raise DataError(
            f"a data worker ended ({error}); if memory ran out, lower data.workers or data.threads"
        ) from error


def _stack(rows: list[Item]) -> HostBatch:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _begin_worker(index: int, count: int) -> None:
    """Leave signals to the main process, which ends its workers; end if it is killed; one thread per filter."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
