"""The order of examples: each epoch has every example once, in its own order."""

from functools import lru_cache

import grain
import numpy as np

# Grain permutes at least 2**16 places and skips the surplus ones. For a folder of 32 photos, one draw takes a
# millisecond, as long as degrading a crop. Up to this number of examples, an epoch's order is drawn as a whole.
FEW = 2**16
# Third number of an epoch's seed. Items use the number of an attempt there, so the streams stay apart.
ORDER = 2**31


def index_at(position: int, count: int, seed: int) -> int:
    """Return the example at `position` (0, 1, ...) of the endless sequence of `count` examples, a pure function.

    Args:
        position: place in the sequence; an epoch has `count` places.
        count: number of examples (1, 2, ...).
        seed: seed of the orders, in [0, 2**32).
    """
    if count > FEW:
        return int(_endless(count, seed)[position])  # pyright: ignore[reportArgumentType]
    epoch, place = divmod(position, count)
    return int(_epoch(count, seed, epoch)[place])


@lru_cache(16)  # training and validation, each with threads in two epochs
def _epoch(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch, ORDER)).permutation(count)


@lru_cache(16)
def _endless(count: int, seed: int) -> grain.MapDataset:
    return grain.MapDataset.range(count).seed(seed).shuffle().repeat()
