"""One run per work folder: a lock that the system frees when its process ends, however that happens."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from diffbir_jax.console.errors import UserError

try:
    import fcntl
except ImportError:  # Windows, where a second run is not noticed
    fcntl = None


@contextlib.contextmanager
def only_run(workdir: Path) -> Iterator[None]:
    """Within this context no other run can use the folder, if its file system and the system have such locks.

    Raises:
        UserError: another process trains there.
    """
    with (workdir / ".lock").open("a+") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                owner = file.read().strip() or "unknown"
                raise UserError(
                    f"{workdir}: process {owner} trains there; wait for it, or give another --workdir"
                ) from None
            except OSError:
                pass  # a file system without locks
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
