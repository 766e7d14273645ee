"""How fast this machine computes each stage, learnt from the work that is done: for expected times."""

import threading
from collections.abc import Mapping

# Weight of the newest measurement.
NEW = 0.3


class Rates:
    """Seconds per operation by stage; threads may share it."""

    def __init__(self) -> None:
        self._rates: dict[str, float] = {}
        self._lock = threading.Lock()

    def learn(self, stage: str, work: float, seconds: float) -> None:
        """Take the time of some work, in operations."""
        if work <= 0 or seconds <= 0:
            return
        with self._lock:
            before = self._rates.get(stage, seconds / work)
            self._rates[stage] = before + NEW * (seconds / work - before)

    def seconds(self, work: Mapping[str, float]) -> float | None:
        """Return the expected time of work by stage; None before anything is known."""
        with self._lock:
            if not self._rates:
                return None
            mean = sum(self._rates.values()) / len(self._rates)
            return sum(self._rates.get(stage, mean) * amount for stage, amount in work.items())
