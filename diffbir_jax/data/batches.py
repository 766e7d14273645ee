"""What every sequence of batches can do, and the thread that works ahead of a loop."""

from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType

import numpy as np

# Arrays of one length by name.
HostBatch = dict[str, np.ndarray]


class Batches:
    """A sequence of host batches, each a pure function of its number: the position of a run is the next number.

    Attributes:
        broken: what could not be read so far and was replaced, message by index.
    """

    broken: Mapping[int, str] = MappingProxyType({})

    def __call__(self, step: int) -> HostBatch:
        """Return batch `step` (0, 1, ...)."""
        raise NotImplementedError

    def iterate(self, first: int, last: int) -> Generator[HostBatch, None, None]:
        """Yield the batches `first` to `last` - 1, working ahead; to be closed."""
        return prefetch(self, first, last)

    @property
    def identity(self) -> dict[str, int | str]:
        """What a resumed run must find unchanged for its batches to be those of a run without a break."""
        return {}

    def remember(self, broken: Mapping[int, str]) -> None:
        """Take over `broken` from the run that this one resumes."""


def split(batch: HostBatch, size: int) -> list[HostBatch]:
    """Return the batch in parts of `size`, the last of which may be smaller."""
    starts = range(0, len(next(iter(batch.values()))), size)
    return [{name: values[start : start + size] for name, values in batch.items()} for start in starts]


def prefetch(
    batches: Callable[[int], HostBatch], first: int, last: int, depth: int = 3
) -> Generator[HostBatch, None, None]:
    """Yield the batches of steps `first` to `last` - 1 while a thread prepares the next `depth` ones."""
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
