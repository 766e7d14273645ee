"""What a long run shows: a bar with the time left on a terminal, a line every few seconds elsewhere."""

import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from types import TracebackType

from tqdm import tqdm

# Seconds between two looks of a terminal, and between two lines where there is none.
LOOK, LINE = 1.0, 5.0


class Meter:
    """Counts work of several kinds and tells the time that the rest takes. A context manager; threads may share it.

    Kinds of work run at different speeds. So each has a rate of its own as soon as some of it is done; before that, the
    fastest of the others stands in: first calls are slow, and the last kind is mostly a fast one.
    """

    def __init__(self, title: str):
        """Take the words in front of the bar."""
        self._title, self._doing, self._kind = title, "", ""
        self._total: dict[str, float] = {}
        self._done: dict[str, float] = {}
        self._seconds: dict[str, float] = {}
        self._programs = _Programs()
        self._last = self._since = time.perf_counter()
        self._lock, self._over = threading.RLock(), threading.Event()

    def __enter__(self) -> "Meter":
        layout = "{desc} {percentage:3.0f}%|{bar:20}|{postfix}"
        # tqdm shows nothing on terminals that do not tell their size: here these have 80 columns and 24 rows.
        columns, rows = shutil.get_terminal_size()
        self._bar = tqdm(
            total=100,
            desc=self._title,
            bar_format=layout,
            ncols=columns,
            nrows=rows,
            disable=None,
            leave=False,
        )
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop showing; a second call does nothing."""
        self._over.set()
        self._thread.join()
        self._bar.close()

    def expect(self, work: Mapping[str, float]) -> None:
        """Take how much work of each kind there is, in any unit that is common to them."""
        with self._lock:
            self._total = dict(work)

    def begin(self, doing: str, kind: str = "") -> None:
        """Show what is done now, and of which kind it is; the time since the last step belongs to no kind of work."""
        with self._lock:
            self._doing, self._since, self._last = doing, time.perf_counter(), time.perf_counter()
            self._kind = kind

    def step(self, kind: str, work: float) -> None:
        """Count work that took the time since the last step or `begin`."""
        with self._lock:
            now = time.perf_counter()
            self._done[kind] = self._done.get(kind, 0.0) + work
            self._seconds[kind] = self._seconds.get(kind, 0.0) + now - self._last
            self._last = now

    @contextlib.contextmanager
    def apart(self, doing: str) -> Iterator[None]:
        """A context whose time is not that of the work, such as compiling; `doing` is shown while it lasts."""
        with self._lock:
            before, kind, spent = self._doing, self._kind, time.perf_counter() - self._last
            self.begin(doing)
        try:
            yield
        finally:
            with self._lock:
                self.begin(before, kind)
                self._last -= spent

    @property
    def foreseen(self) -> Mapping[str, int]:
        """What `foresee` was told."""
        return self._programs.needed

    def foresee(self, programs: Mapping[str, int]) -> None:
        """Take how many programs of each kind the whole run needs, those that are compiled included."""
        with self._lock:
            self._programs.needed = dict(programs)

    @contextlib.contextmanager
    def compiling(self, kind: str, again: bool = False) -> Iterator[None]:
        """As `apart`, while a program is compiled; `again` is one that was counted before."""
        programs = self._programs
        with self._lock:
            programs.begin(kind, again)
            doing = f"compiling: {kind}, program {programs.number}"
        with self.apart(doing):
            try:
                yield
            finally:
                with self._lock:
                    programs.end(kind, again)

    def left(self) -> float | None:
        """Seconds that the rest takes, compiling included; None before any work is done."""
        with self._lock:
            rates = {kind: self._seconds[kind] / done for kind, done in self._done.items() if done}
            if not rates or not self._total:
                return None
            fastest = min(rates.values())
            rest = {kind: self._rest(kind) * rates.get(kind, fastest) for kind in self._total}
            # One step may take minutes. The time runs on meanwhile, as far as the step can last.
            under_way = min(rest.get(self._kind, 0.0), time.perf_counter() - self._last)
            return sum(rest.values()) - under_way + self._programs.left()

    def _rest(self, kind: str) -> float:
        return max(0.0, self._total[kind] - self._done.get(kind, 0.0))

    def text(self) -> str:
        """What is shown beside the bar."""
        with self._lock:
            spent = time.perf_counter() - self._since
            doing = f"{self._doing}, {spent:.0f} s" if self._doing and spent >= LINE else self._doing
            left = self.left()
            return ", ".join(filter(None, [doing, "" if left is None else f"{duration(left)} left"]))

    def share(self) -> float:
        """The share of the work that is done, by the time that it takes, in [0, 1]."""
        with self._lock:
            left, spent = self.left(), sum(self._seconds.values()) + self._programs.spent
            return 0.0 if left is None else spent / max(spent + left, 1e-9)

    def _watch(self) -> None:
        """Redraw the bar, or write a line, until the run is over."""
        while not self._over.wait(LINE if self._bar.disable else LOOK):
            if not self._bar.disable:
                self._bar.n = round(100 * self.share())
                self._bar.set_postfix_str(self.text())
            elif text := self.text():
                print(f"{self._title} {100 * self.share():.0f}%, {text}", file=sys.stderr, flush=True)


class _Programs:
    """What is compiled in a run, by kind: how much of it there is, and how long it takes.

    Attributes:
        needed: programs of the whole run, by kind.
        spent: seconds so far.
    """

    def __init__(self) -> None:
        self.needed: dict[str, int] = {}
        self.spent = 0.0
        self._done: dict[str, int] = {}
        self._rates: dict[str, float] = {}
        self._began: tuple[str, float] | None = None

    @property
    def number(self) -> str:
        """The place of the program that is compiled now, such as "2 of 8"."""
        now = sum(self._done.values()) + 1
        return f"{now} of {max(now, sum(self.needed.values()))}"

    def begin(self, kind: str, again: bool) -> None:
        self._began = None if again else (kind, time.perf_counter())

    def end(self, kind: str, again: bool) -> None:
        """Count a program. The latest weigh most: a run may begin with some from the cache, or with none."""
        if again or self._began is None:
            return
        seconds = time.perf_counter() - self._began[1]
        self.spent, self._began = self.spent + seconds, None
        self._done[kind] = self._done.get(kind, 0) + 1
        self._rates[kind] = (self._rates.get(kind, seconds) + seconds) / 2

    def left(self) -> float:
        """Seconds for the programs that are still to be compiled, as far as any speed is known."""
        if not self._rates:
            return 0.0
        mean = sum(self._rates.values()) / len(self._rates)
        rates = {kind: self._rates.get(kind, mean) for kind in self.needed}
        rest = {kind: max(0, count - self._done.get(kind, 0)) for kind, count in self.needed.items()}
        under_way = 0.0
        if self._began is not None and rest.get(self._began[0]):
            under_way = min(rates[self._began[0]], time.perf_counter() - self._began[1])
        return sum(count * rates[kind] for kind, count in rest.items()) - under_way


def duration(seconds: float) -> str:
    """Return seconds as people say them: "8 s", "3 min", "2 h 5 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
