"""The lengths of the names of files to write, which the file system limits."""

import functools
import os
from collections.abc import Iterable
from pathlib import Path

from diffbir_jax.batch.names import Outputs, some
from diffbir_jax.files.errors import ImageFileError

# Bytes that a name may have on most file systems; used where the system does not say it.
USUAL = 255
# What follows the beginning of a crop's name, at least, see `faces.reports.write_crops`.
CROP_END = "_01_before.png"


def check_lengths(written: Iterable[tuple[Path, Outputs]]) -> None:
    """Check that the file system takes all names, because a file is written only after its image was computed.

    Args:
        written: every input with the files to write for it.

    Raises:
        ImageFileError: names are too long; the message names the inputs and the limit.
    """
    long = {path: most for path, outputs in written for most in _exceeded(outputs)}
    if long:
        raise ImageFileError(
            f"{some(long)}: a file that is written for it would have a name of more than {min(long.values())} bytes, "
            "which the file system does not take; rename it"
        )


def _exceeded(outputs: Outputs) -> Iterable[int]:
    """Yield the limit for each file whose name is longer, in bytes."""
    crops = [outputs.crops.with_name(outputs.crops.name + CROP_END)] if outputs.crops else []
    for file in (*outputs.all(), *crops):
        most = _most(file.parent)
        if len(os.fsencode(file.name)) > most:
            yield most


@functools.cache
def _most(folder: Path) -> int:
    """The bytes that a name in a folder may have; the folder need not exist yet."""
    there = next((each for each in (folder, *folder.parents) if each.is_dir()), Path())
    try:
        return os.pathconf(there, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):
        return USUAL
