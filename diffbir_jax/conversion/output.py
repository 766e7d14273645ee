"""Writing several files at once: files are replaced only on request, and all appear together or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from diffbir_jax.console.errors import UserError
from diffbir_jax.console.interrupts import undisturbed
from diffbir_jax.files.locks import HeldError, held
from diffbir_jax.files.writing import check_length

# Beginning of the name of a folder of files that are not finished, and the lock in it that its process holds.
UNFINISHED, LOCK = ".converting-", ".lock"


def check_names(folder: Path, names: Sequence[str], overwrite: bool, sources: Sequence[Path] = ()) -> None:
    """Check that files with these names may be written into `folder`, and that none is one of `sources`.

    Raises:
        FileExistsError: some exist and `overwrite` is off.
        IsADirectoryError: a folder has the name of a file, for any `overwrite`.
        NotADirectoryError: `folder` is a file.
        ValueError: a name is a path, empty or too long, or a file would replace a source, for any `overwrite`.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"--output {folder} is a file: give a folder, which is made if missing")
    for name in names:
        if Path(name).name != name or name.startswith("."):
            raise UserError(f"{name!r} is no name of a file: give --name without folders")
        # The longest name that it has on the way, see `weights.safetensors.write_arrays`.
        check_length(folder / name, "give a shorter --name", folder / f"{name}.partial")
    if lost := {(folder / name).resolve() for name in names} & {path.resolve() for path in sources}:
        listed = ", ".join(map(str, sorted(lost)))
        raise UserError(
            f"{listed} would be replaced while it is read: give another --output or another --name"
        )
    if folders := [str(folder / name) for name in names if (folder / name).is_dir()]:
        raise IsADirectoryError(f"{', '.join(folders)} is a folder: remove it, or give another --output")
    existing = [str(folder / name) for name in names if (folder / name).exists()]
    if existing and not overwrite:
        raise FileExistsError(
            f"{', '.join(existing)} exists: give --overwrite, another --output or another --name"
        )


def _remove_leftovers(folder: Path) -> None:
    """Delete the unfinished folders of processes that have ended."""
    for left in folder.glob(f"{UNFINISHED}*"):
        with suppress(HeldError, OSError), held(left / LOCK):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def together(folder: Path) -> Iterator[Path]:
    """A new folder. Its files move into `folder` if the block ends without an error, and are deleted otherwise.

    What killed processes left in `folder` is deleted, too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    # Inside the target folder, so that moving is a rename on the same disk.
    unfinished = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=folder))
    try:
        with held(unfinished / LOCK):
            yield unfinished
            with undisturbed():
                for path in sorted(unfinished.iterdir()):
                    if path.name != LOCK:
                        os.replace(path, folder / path.name)
                shutil.rmtree(unfinished)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
