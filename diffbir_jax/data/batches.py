"""The interface of all sequences of batches, and a thread that prepares batches ahead of a loop."""

from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType

import numpy as np

# Arrays of one length by name.
HostBatch = dict[str, np.ndarray]


class Batches:
    """A sequence of host batches. Each is a pure function of its number, so a run's position is its next number.

    Attributes:
        broken: examples that could not be read and were replaced, message by index.
    """

    broken: Mapping[int, str] = MappingProxyType({})

    def __call__(self, step: int) -> HostBatch:
        """Return batch `step` (0, 1, ...)."""
        raise NotImplementedError

    def iterate(self, first: int, last: int) -> Generator[HostBatch, None, None]:
        """Yield the batches `first` to `last` - 1, prepared ahead; the caller must close the generator."""
        return prefetch(self, first, last)

    @property
    def identity(self) -> dict[str, int | str]:
        """The settings that must not change when a run is resumed, so that its batches stay the same."""
        return {}

    def remember(self, broken: Mapping[int, str]) -> None:
        """Take over the `broken` examples of the run that is resumed."""


def split(batch: HostBatch, size: int) -> list[HostBatch]:
    """Split the batch into parts of `size`; the last part may be smaller."""
    starts = range(0, len(next(iter(batch.values()))), size)
    return [{name: values[start : start + size] for name, values in batch.items()} for start in starts]


def prefetch(
    batches: Callable[[int], HostBatch], first: int, last: int, depth: int = 3
) -> Generator[HostBatch, None, None]:
    """Yield the batches of steps `first` to `last` - 1; a thread prepares up to `depth` batches ahead."""
    # One thread: batches may share state (a stream of items) and must be made in order.
    pool = ThreadPoolExecutor(1)
    try:
        ahead = [pool.submit(batches, step) for step in range(first, min(first + depth, last))]
        for step in range(first, last):
            batch = ahead.pop(0).result()
            if step + depth < last:
                ahead.append(pool.submit(batches, step + depth))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)
