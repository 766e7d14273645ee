"""Writing files so that readers never see a partial file."""

import contextlib
import os
import threading
from pathlib import Path

from diffbir_jax.files.errors import ImageFileError


def replace_file(path: Path, data: bytes) -> None:
    """Write a file; readers of `path` see the old file or the new one, never a partial file.

    Raises:
        ImageFileError: it cannot be written.
    """
    # A short name, because a path may already have the system's maximal length; hidden, so no listing shows it.
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
