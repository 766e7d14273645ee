"""Folders for results."""

import os
from pathlib import Path

from diffbir_jax.files.errors import ImageFileError


def make_folder(path: Path) -> None:
    """Make a folder for results before any computation.

    Raises:
        ImageFileError: the folder cannot be made, or files cannot be written to it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageFileError(
            f"{path}: cannot be made a folder ({error.strerror}); choose another --output"
        ) from None
    if not os.access(path, os.W_OK):
        raise ImageFileError(f"{path}: is read-only; change its permissions or choose another --output")
