"""Scores on disk, so that an evaluation continues where it stopped and repeats nothing."""

import json
import threading
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from diffbir_jax.files.errors import ImageFileError


class Outcome(NamedTuple):
    """The outcome of scoring: a finite `score`, or None and the `problem`.

    A `passing` outcome, such as too little memory, is no property of the image: the next run tries again.
    """

    score: float | None
    problem: str | None = None
    passing: bool = False


class Cache:
    """Outcomes by key, one line of JSON each, appended as they arrive. Threads may share it. A context manager.

    A line that is incomplete because a process was killed is skipped, and the next outcome starts a new line.
    """

    def __init__(self, path: Path):
        """Read `path`, if it exists, and open it to append.

        Raises:
            ImageFileError: it cannot be read or written.
        """
        try:
            before = path.read_bytes() if path.exists() else b""
            self._file = path.open("ab")
        except OSError as error:
            raise ImageFileError(
                f"{path}: cannot be kept ({error.strerror}); choose another --output"
            ) from None
        # Later lines win, so a score that was computed again replaces the older one.
        self._known = dict(filter(None, map(_parse, before.splitlines())))
        self._lock = threading.Lock()
        if before and not before.endswith(b"\n"):
            self._file.write(b"\n")

    def __enter__(self) -> "Cache":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> Outcome:
        return self._known[key]

    def put(self, key: str, outcome: Outcome) -> None:
        """Keep an outcome. Unless it is passing, it is in the file when this returns."""
        entry = {"key": key, "score": outcome.score, "problem": outcome.problem}
        # Passing outcomes stay in memory only, so the next run tries again.
        line = "" if outcome.passing else json.dumps(entry, allow_nan=False) + "\n"
        with self._lock:
            self._file.write(line.encode())
            # Flushed at once: a killed run keeps every finished score.
            self._file.flush()
            self._known[key] = outcome


def _parse(line: bytes) -> tuple[str, Outcome] | None:
    """A key and its outcome; None for an incomplete line."""
    try:
        entry = json.loads(line)
        score = None if entry["score"] is None else float(entry["score"])
        return str(entry["key"]), Outcome(score, entry["problem"])
    except (ValueError, KeyError, TypeError):
        return None
