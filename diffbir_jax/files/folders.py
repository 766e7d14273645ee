"""Folders for results."""

import os
from pathlib import Path

from diffbir_jax.files.errors import ImageFileError


def check_folder(path: Path) -> None:
    """Raise ImageFileError if `make_folder` would; nothing is made."""
    nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not nearest.is_dir():
        raise ImageFileError(
            f"{path}: cannot be made a folder ({nearest} is a file); choose another --output"
        )
    if not os.access(nearest, os.W_OK):
        raise ImageFileError(f"{nearest}: is read-only; change its permissions or choose another --output")


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
