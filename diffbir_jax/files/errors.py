"""Errors about files."""

import os
from pathlib import Path

from diffbir_jax.console.errors import UserError


class ImageFileError(UserError):
    """An image file that cannot be read or written; the message names it, says why and what to do."""


def absent(path: Path, otherwise: str) -> str:
    """Say what is wrong with a path that does not exist: that it is a broken link, or `otherwise`."""
    if not path.is_symlink():
        return otherwise
    return f"is a broken link, to {os.readlink(path)}; mount its disk, or mend or remove the link"


def reason(error: BaseException) -> str:
    """Return an error's message in one line of at most 200 characters."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return " ".join(text.split())[:200] or type(error).__name__
