"""Checkpoints have checksums, so that a damaged one is noticed and set aside before a run resumes from it."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from diffbir_jax.console.errors import UserError
from diffbir_jax.files.digest import sha256
from diffbir_jax.files.writing import replace_file
from diffbir_jax.training.distributed import gathered
from diffbir_jax.training.unsealed import unreadable

# Ends of the names of two folders beside that of the checkpoints, which belongs to Orbax.
SEALS, DAMAGED = "_checksums", "_damaged"


def seal(folder: Path) -> None:
    """Write the checksums of complete checkpoints that have none, and forget those of checkpoints that are gone."""
    steps = set(checkpoint_steps(folder))
    for step in steps:
        record = _record(folder, step)
        if not record.exists():
            record.parent.mkdir(exist_ok=True)
            replace_file(record, json.dumps(_checksums(folder / str(step)), indent=1).encode())
    for record in beside(folder, SEALS).glob("*.json"):
        if _is_step(record.stem) and int(record.stem) not in steps:
            record.unlink(missing_ok=True)


def set_damaged_aside(folder: Path) -> list[str]:
    """Move checkpoints that are newer than the last intact one into another folder; return what is wrong.

    A checkpoint without checksums is of an earlier version, or of a run that was killed before it wrote them. It counts
    as intact if all of it can be read.

    Raises:
        UserError: a folder lies where a file with checksums belongs.
    """
    _check_records(folder)
    told = []
    for step in sorted(checkpoint_steps(folder), reverse=True):
        problem = _problem(folder, step)
        if not problem:
            break
        place = _free(beside(folder, DAMAGED) / str(step))
        place.parent.mkdir(exist_ok=True)
        shutil.move(folder / str(step), place)
        _record(folder, step).unlink(missing_ok=True)
        told.append(f"checkpoint {folder / str(step)} is damaged ({problem}); it lies in {place} now")
    return told


def check_shared(folder: Path) -> None:
    """Check that this process sees and may read the newest checkpoint that the others see.

    Orbax reads it in all processes together. If one of them could not, the others would wait for it.

    Raises:
        UserError: processes see other checkpoints.
        OSError: a file cannot be read.
    """
    newest = max(checkpoint_steps(folder), default=None)
    seen = gathered("no checkpoint" if newest is None else f"checkpoint {newest}")
    if len({*seen}) > 1:
        listed = ", ".join(f"process {process} sees {each}" for process, each in enumerate(seen))
        raise UserError(f"{folder}: {listed}; give a `workdir` in a folder that all processes share")
    for path in (folder / str(newest)).rglob("*") if newest is not None else ():
        if path.is_file():
            path.open("rb").close()


def checkpoint_steps(folder: Path) -> Iterator[int]:
    """Yield the steps of the checkpoints in a folder; unfinished ones have other names."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if _is_step(path.name) and path.is_dir():
            yield int(path.name)


def _is_step(name: str) -> bool:
    """Whether a name is one that Orbax writes; others, such as 007, are not the names of their numbers."""
    return name.isascii() and name.isdecimal() and str(int(name)) == name


def beside(folder: Path, end: str) -> Path:
    """Return the folder beside one of checkpoints whose name ends so."""
    return folder.with_name(folder.name + end)


def _record(folder: Path, step: int) -> Path:
    return beside(folder, SEALS) / f"{step}.json"


def _check_records(folder: Path) -> None:
    """Raise UserError if something else lies where checksums are written."""
    place = beside(folder, SEALS)
    if place.exists() and not place.is_dir():
        raise UserError(
            f"{place}: is no folder, but checksums of checkpoints belong there; move it elsewhere"
        )
    for step in checkpoint_steps(folder):
        record = _record(folder, step)
        if record.exists() and not record.is_file():
            raise UserError(
                f"{record}: is no file, but checksums of a checkpoint belong there; move it elsewhere"
            )


def _checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file below a folder, by its path there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}


def _problem(folder: Path, step: int) -> str:
    """What is wrong with a checkpoint; "" if nothing."""
    place = folder / str(step)
    try:
        wanted = json.loads(_record(folder, step).read_text("utf-8"))
    except FileNotFoundError:
        return unreadable(place)
    except ValueError:
        wanted = None
    if not isinstance(wanted, dict) or not all(isinstance(digest, str) for digest in wanted.values()):
        return "its checksums cannot be read"
    found = _checksums(place)
    different = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
    return f"{different[0]} is not what was saved" if different else ""


def _free(path: Path) -> Path:
    """A path that does not exist: this one, or with a number."""
    number = 0
    found = path
    while os.path.lexists(found):
        number += 1
        found = path.with_name(f"{path.name}-{number}")
    return found
