"""The time of computing, divided among the images in hand: the seconds of all images add up to those of the run."""

import time
from collections.abc import Callable


class Shares:
    """Divides time among images while they are in hand, in proportion to their weights; for one thread.

    Images share batches, and photos share those of their faces. So no stretch of time belongs to a single image.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter):
        """Take the clock."""
        self._now, self._since = now, 0.0
        self._weights: dict[int, float] = {}
        self._spent: dict[int, float] = {}

    def begin(self, image: int, weight: float) -> None:
        """Take an image in hand; `weight` is above 0, such as its pixels."""
        self._divide()
        self._weights[image], self._spent[image] = weight, 0.0

    def end(self, image: int) -> float:
        """Return the seconds of an image, which is no longer in hand."""
        self._divide()
        del self._weights[image]
        return self._spent.pop(image)

    def _divide(self) -> None:
        """Divide the time since the last call; without an image in hand it is nobody's."""
        now = self._now()
        total = sum(self._weights.values())
        for image, weight in self._weights.items():
            self._spent[image] += (now - self._since) * weight / total
        self._since = now
