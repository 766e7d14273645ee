"""Sizes of a network from the shapes of its state dict: with limits, and not from one key alone."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from diffbir_jax.console.plain import shown
from diffbir_jax.conversion.stored import CheckpointError

# Published networks have 24 blocks in a row at most, and windows of 16 pixels: tracing larger ones takes memory.
MOST_BLOCKS = 100
MOST_WINDOW = 32


class Shapes:
    """Shapes of a state dict, with a fallback for each query. The engine reports missing and odd shapes."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]):
        """Take key -> shape."""
        self._shapes = shapes

    def size(self, key: str, axis: int, default: int, multiple: int = 1) -> int:
        """Length of an axis; `default` if it is missing, 0 or no multiple of `multiple`."""
        return self.most([(key, axis)], default, multiple)

    def most(self, places: Iterable[tuple[str, int]], default: int, multiple: int = 1) -> int:
        """The most frequent length of axes that should be equal: one missing or odd key does not change it."""
        found = Counter(filter(None, (self._length(key, axis) for key, axis in places)))
        fitting = [size for size, _ in found.most_common() if size % multiple == 0]
        return fitting[0] if fitting else default

    def has(self, pattern: str) -> bool:
        """Whether a key starts like this regular expression."""
        return any(re.match(pattern, key) for key in self._shapes)

    def count(self, pattern: str, default: int) -> int:
        """1 + the largest number that the group of `pattern` captures at the start of a key.

        Raises:
            CheckpointError: it is absurd.
        """
        found = [(match[1], key) for key in self._shapes if (match := re.match(pattern, key))]
        for text, key in found:
            if len(text) > 9 or int(text) >= MOST_BLOCKS:
                raise CheckpointError(
                    f"the key {shown(key)} has the number {shown(text, 20)}: networks have at most {MOST_BLOCKS} "
                    "blocks in a row; the file is damaged"
                )
        return 1 + max(int(text) for text, _ in found) if found else default

    def colour(self, key: str) -> None:
        """Check that a network's first convolution takes colours.

        Raises:
            CheckpointError: it takes grey photos.
        """
        if self._length(key, 1) == 1:
            raise CheckpointError(
                f"{key} takes 1 channel, grey photos; networks for 3 channels are converted"
            )

    def window(self, side: int) -> int:
        """`side`, if it can be the side of an attention window.

        Raises:
            CheckpointError: it is absurd.
        """
        if not 1 <= side <= MOST_WINDOW:
            raise CheckpointError(f"attention windows of {side} pixels; allowed are 1 to {MOST_WINDOW}")
        return side

    def _length(self, key: str, axis: int) -> int:
        shape = self._shapes.get(key, ())
        # A damaged file may have any shape here; the engine reports it later with all other problems.
        return shape[axis] if axis < len(shape) else 0
