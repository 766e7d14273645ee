"""Writing files so that nobody finds half of one."""

import contextlib
import os
import threading
from pathlib import Path

from diffbir_jax.files.errors import ImageFileError


def replace_file(path: Path, data: bytes) -> None:
    """Write a file; whoever looks at `path` finds the old one, or the new one, never half of it.

    Raises:
        ImageFileError: it cannot be written.
    """
    # Short, since a path may be as long as the system allows; hidden, so that no listing shows it.
    temporary = path.with_name(f".{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise ImageFileError(f"{path}: cannot be written ({reason}); choose another output folder") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
