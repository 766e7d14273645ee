"""The order of examples: every one once in each epoch, each epoch in an order of its own."""

from functools import lru_cache

import grain
import numpy as np

# Grain permutes 2**16 places at least and passes over those that are too many: of a folder of 32 photos a draw takes
# it a millisecond, as long as degrading a crop. Up to that number an epoch's order is drawn as a whole.
FEW = 2**16
# Keeps an epoch's draws apart from those of an item, whose third number is a count of attempts.
ORDER = 2**31


def index_at(position: int, count: int, seed: int) -> int:
    """Return the example at `position` (0, 1, ...) of the endless sequence of `count` examples, a pure function.

    Args:
        position: place in the sequence; `count` of them are an epoch.
        count: of the examples (1, 2, ...).
        seed: of the orders, in [0, 2**32).
    """
    if count > FEW:
        return int(_endless(count, seed)[position])  # pyright: ignore[reportArgumentType]
    epoch, place = divmod(position, count)
    return int(_epoch(count, seed, epoch)[place])


@lru_cache(16)  # of training and validation, with threads in two epochs
def _epoch(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch, ORDER)).permutation(count)


@lru_cache(16)
def _endless(count: int, seed: int) -> grain.MapDataset:
    return grain.MapDataset.range(count).seed(seed).shuffle().repeat()
