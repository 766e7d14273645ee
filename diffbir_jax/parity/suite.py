"""Find the checks of each golden file, and the keys that no check uses."""

import fnmatch
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffbir_jax.parity import (
    degradation,
    faces,
    guidance,
    imaging,
    losses,
    networks,
    one_step_suite,
    pipeline,
    sampling,
    training,
)
from diffbir_jax.parity.case import Case

# Pattern of the file's stem -> (stem, keys, salt) -> cases.
FILES: dict[str, Callable[[str, Sequence[str], str], Iterator[Case]]] = {
    "*_small": networks.cases,
    "*_full": networks.cases,
    "samplers": sampling.cases,
    "guidance": guidance.cases,
    "image_ops": imaging.cases,
    "degradation*": degradation.cases,
    "training": training.cases,
    "pipeline*": pipeline.cases,
    "losses": losses.cases,
    "onestep_*": one_step_suite.cases,
    "faces*": faces.cases,
}
# Files of one-step methods and of faces are in folders of these names beside the others, or among them.
BESIDE = ("onestep", "faces")


class ParityError(Exception):
    """The folder cannot be used; the message is for the user."""


class Suite(NamedTuple):
    """The content of a folder of golden files.

    Attributes:
        folder: the folder.
        cases: all known cases, including those that are not implemented.
        unknown: file -> keys that no case uses.
        strangers: files without any case.
    """

    folder: Path
    cases: list[Case]
    unknown: dict[str, list[str]]
    strangers: frozenset[str]

    def only(self, pattern: str, small: bool = False) -> "Suite":
        """Keep the cases and unknown keys whose file or "file:name" matches; `small` leaves out full-size cases."""

        def matches(file: str, name: str) -> bool:
            return any(fnmatch.fnmatchcase(text, pattern) for text in (f"{file}:{name}", file))

        # A case of a group is found by the name of its file as well.
        found = [c for c in self.cases if matches(c.file, c.name) or matches(c.group or c.file, c.name)]
        cases = [case for case in found if not (small and case.full_size)]
        unknown = {file: [key for key in keys if matches(file, key)] for file, keys in self.unknown.items()}
        return self._replace(cases=cases, unknown={file: keys for file, keys in unknown.items() if keys})


def collect(folder: Path) -> Suite:
    """Read the keys of a folder of golden files and find their cases; nothing is computed.

    Raises:
        ParityError: the folder is missing or holds no readable golden files, or their salt is not stated.
    """
    if not folder.is_dir():
        raise ParityError(f"no folder {folder}: give one with golden files (*.npz and meta.json)")
    if not any(folder.glob("*.npz")):
        raise ParityError(f"no golden files (*.npz) in {folder}")
    salt = _salt(folder / "meta.json")
    cases, unknown = [], {}
    for stem, file in golden_files(folder).items():
        keys = list(load(file))
        found = list(_cases(stem, keys, salt))
        # Every key must be an input or an output of some case; others were forgotten or are new.
        known = {key for case in found for key in (*case.inputs, *case.outputs)}
        cases += found
        unknown[stem] = [key for key in keys if key not in known]
    strangers = frozenset(unknown) - {case.file for case in cases}
    return Suite(folder, cases, {file: keys for file, keys in unknown.items() if keys}, strangers)


def golden_files(folder: Path) -> dict[str, Path]:
    """Return stem -> golden file, sorted, of `folder` and of the folders `BESIDE` it; `folder` wins."""
    beside = (folder.resolve().parent / name for name in BESIDE)
    found = [*(file for place in beside for file in place.glob("*.npz")), *folder.glob("*.npz")]
    return dict(sorted({file.stem: file for file in found}.items()))


def load(file: Path) -> "np.lib.npyio.NpzFile":
    """Open a golden file; arrays are read on access.

    Raises:
        ParityError: it is not an .npz file.
    """
    try:
        opened = np.load(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ParityError(f"{file} cannot be read as .npz: {error}") from error
    if not isinstance(opened, np.lib.npyio.NpzFile):
        raise ParityError(f"{file} cannot be read as .npz: it holds a single array")
    return opened


def _cases(stem: str, keys: Sequence[str], salt: str) -> Iterator[Case]:
    """Yield the cases with at least one golden value; a file may hold only a part of its kind's values."""
    for pattern, make in FILES.items():
        if fnmatch.fnmatchcase(stem, pattern):
            yield from (case for case in make(stem, keys, salt) if not set(keys).isdisjoint(case.outputs))


def _salt(file: Path) -> str:
    try:
        salt = json.loads(file.read_text(encoding="utf-8"))["salt"]
    except FileNotFoundError as error:
        raise ParityError(f'no {file}: it states the salt of the weights, e.g. {{"salt": "a"}}') from error
    except (ValueError, KeyError, TypeError) as error:
        raise ParityError(f'{file} does not state the salt of the weights as {{"salt": "a"}}') from error
    return str(salt)
