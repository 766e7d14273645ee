"""Locks between processes: the system frees them when a process ends, however that happens."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no fcntl: a second process is not noticed there
    fcntl = None


class HeldError(Exception):
    """Another process holds the lock.

    Attributes:
        owner: its number, as far as is known.
    """

    def __init__(self, owner: str):
        """Take the number."""
        super().__init__(f"process {owner} holds the lock")
        self.owner = owner


@contextmanager
def held(lock: Path) -> Iterator[None]:
    """Hold a lock file within this context, if the system and the file system have such locks.

    Raises:
        HeldError: another process holds it.
        OSError: the file cannot be opened.
    """
    # flock, not the existence of a file: the system releases it when a process is killed.
    with lock.open("a+") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise HeldError(file.read().strip() or "unknown") from None
            except OSError:  # a file system without locks
                pass
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
