"""Something that happens at a chosen operation on the files of a folder."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

# Python tells an audit hook of each of these before it does it.
EVENTS = ("open", "os.rename", "os.mkdir", "os.remove")


class Operations:
    """Counts the operations on files below a folder, and lets something happen at one of them.

    Attributes:
        count: how many there were.
    """

    def __init__(self, folder: str, number: int, happen: Callable[[], None]):
        """Take a folder of the current one, the number of the operation from 1, and what happens before it."""
        self.places = (folder, str(Path(folder).absolute()))
        self.number, self.happen, self.count = number, happen, 0

    def see(self, event: str, args: tuple) -> None:
        if event in EVENTS and args and str(args[0]).startswith(self.places):
            self.count += 1
            if self.count == self.number:
                self.happen()


_seeing: list[Operations] = []
_added = False


def _hook(event: str, args: tuple) -> None:
    for operations in _seeing:
        operations.see(event, args)


@contextmanager
def happening(folder: str, number: int, happen: Callable[[], None]) -> Iterator[Operations]:
    """Within this context, let something happen before an operation on files of a folder."""
    global _added
    if not _added:
        # Python cannot remove a hook, so one stays.
        sys.addaudithook(_hook)
        _added = True
    operations = Operations(folder, number, happen)
    _seeing.append(operations)
    try:
        yield operations
    finally:
        _seeing.remove(operations)


def alone() -> None:
    """For a forked child: killed while it prints, it would keep tqdm's lock, which its parent shares."""
    tqdm.set_lock(threading.RLock())
