"""How many requests a client may send per minute."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

MINUTE = 60.0
# Clients that are remembered; the one that was quiet longest is forgotten first.
REMEMBERED = 2**16
# Seconds that sums of intervals may be wrong by.
ROUNDING = 1e-6


class Allowance:
    """Requests per minute of each client; for one thread.

    It is the generic cell rate algorithm (ITU-T I.371): a client may send a minute's requests at once, and gets one
    more after each interval of minute / number.
    """

    def __init__(self, number: int, clock: Callable[[], float] = time.monotonic):
        """Take the number of requests per minute, and a clock in seconds."""
        self._interval, self._clock = MINUTE / number, clock
        # When each client would have used up its requests at an even pace.
        self._due: OrderedDict[Hashable, float] = OrderedDict()

    def wait(self, client: Hashable) -> int:
        """Count a request and return 0; or return the seconds, at least 1, after which the client may send one."""
        now = self._clock()
        due = max(now, self._due.get(client, now))
        early = due + self._interval - MINUTE - now
        if early > ROUNDING:
            return math.ceil(early - ROUNDING)
        self._due[client] = due + self._interval
        self._due.move_to_end(client)
        if len(self._due) > REMEMBERED:
            self._due.popitem(last=False)
        return 0
