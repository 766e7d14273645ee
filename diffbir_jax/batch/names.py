"""The files that a run writes for an input, and the checks that they overwrite nothing."""

import functools
import os
import re
import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from diffbir_jax.batch.settings import Format, Recipe, Settings
from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.imaging.writing import OUTPUT_SUFFIXES

SUFFIXES: dict[Format, str] = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tif"}
# What the names of pictures beside a result end in; they are no results themselves.
CROP = r"_face_\d+_(before|after(_\d+)?)"
ASIDE = re.compile(rf"(_compare|_stage1|_std|{CROP})$")
# A crop of a face among the keys of `place`, and what its files' names begin with.
CROP_FILE = re.compile(r"(.+_face)_\d+_(before|after(_\d+)?)\.png")
# Name of a file that `files.writing` has not finished: process, thread.
TEMPORARY = re.compile(r"\.(\d+)-\d+\.tmp")
# A temporary file of this age in seconds is abandoned.
STALE = 3600
# An error lists this many names and counts the rest.
NAMED = 5


class Outputs(NamedTuple):
    """The files written for an input.

    Attributes:
        folder: of all files but the guidance map.
        results: one per sample. results[0] is written last: if it exists, the job is complete. None without whole
            photos: then the sidecar is the last.
        compared: one per sample, or none.
        stage1: the image after stage 1, or None.
        deviation: the map of differences between the results, or None.
        weight: the guidance map, or None.
        sidecar: the record of how the results were made, or None.
        crops: beginning of the names of crops of faces, see `faces.reports.write_crops`; or None. How many there are
            shows only later.
    """

    folder: Path
    results: tuple[Path, ...]
    compared: tuple[Path, ...] = ()
    stage1: Path | None = None
    deviation: Path | None = None
    weight: Path | None = None
    sidecar: Path | None = None
    crops: Path | None = None

    @property
    def main(self) -> Path:
        """The file, or the beginning of its name, that stands for all."""
        return self.results[0] if self.results else self.crops or self.folder

    def all(self) -> Iterator[Path]:
        """Yield the files, the main result last."""
        yield from self.compared
        yield from (path for path in (self.stage1, self.deviation, self.weight, self.sidecar) if path)
        yield from reversed(self.results)

    def claimed(self) -> Iterator[Path]:
        """Yield the files, pictures first, and the beginning of the crops' names, which no other input may have."""
        yield from reversed([*self.all()])
        if self.crops:
            yield self.crops


def suffix_of(recipe: Recipe, name: Path) -> str:
    """Return the suffix of an input's results. Formats that cannot be written, such as BMP, become PNG."""
    if recipe.format != "same":
        return SUFFIXES[recipe.format]
    return name.suffix.lower() if name.suffix.lower() in OUTPUT_SUFFIXES else SUFFIXES["png"]


def outputs_of(settings: Settings, name: Path, many: bool) -> Outputs:
    """Return the files to write for an input.

    Args:
        settings: the run.
        name: path of the input below the folder that the output folder mirrors.
        many: whether there may be several inputs; then `settings.guidance_map` is a folder.
    """
    recipe, folder, stem = settings.recipe, settings.output / name.parent, name.stem
    suffix = suffix_of(recipe, name)
    numbers = [""] if recipe.n_samples == 1 else [f"_{i + 1}" for i in range(recipe.n_samples)]
    # If formats are kept, a.jpg and a.png may lie side by side.
    noted = name.name if recipe.format == "same" else stem
    maps = settings.guidance_map
    return Outputs(
        folder,
        tuple(folder / f"{stem}{number}{suffix}" for number in numbers if recipe.writes_photos),
        tuple(folder / f"{stem}{number}_compare{suffix}" for number in numbers if recipe.compare),
        folder / f"{stem}_stage1{suffix}" if recipe.save_stages else None,
        folder / f"{stem}_std.png" if recipe.std_map else None,
        maps / name.parent / f"{stem}.png" if maps and many else maps,
        folder / f"{noted}.json" if settings.sidecar else None,
        folder / f"{noted}_face" if recipe.writes_faces else None,
    )


def real_folder(folder: Path) -> str:
    """Return a folder's path without symbolic links; cached, because thousands of files share few folders."""
    return _real_folder(os.path.join(os.getcwd(), folder))


@functools.cache
def _real_folder(folder: str) -> str:
    return real_path(folder)


def real_path(path: str | Path) -> str:
    """Return a path without symbolic links; one with a NUL character, which no file has, as it is."""
    try:
        return os.path.realpath(path)
    except ValueError:
        return str(path)


def place(path: Path) -> str:
    """Return a key that is equal for two paths of one file, also on a file system that ignores case."""
    return unicodedata.normalize("NFC", os.path.join(real_folder(path.parent), path.name)).casefold()


def check_clashes(written: Iterable[tuple[Path, Outputs]], given: Iterable[Path], settings: Settings) -> None:
    """Check that no input and no other file of the user is overwritten, and that no file is written twice.

    Args:
        written: every input with the files to write for it.
        given: every file that is read.
        settings: the run.

    Raises:
        ImageFileError: a file would be overwritten; the message names the files and a solution.
    """
    kept = {key for path in given for key in (place(path), place(Path(real_path(path))))}
    owners: dict[str, Path] = {}
    over: dict[Path, None] = {}
    files: dict[str, Path] = {}
    for path, outputs in written:
        own: set[str] = set()
        for file in outputs.claimed():
            key = place(file)
            owner = owners.setdefault(key, path)
            if owner is not path:
                raise ImageFileError(clash(owner, path, file, settings))
            if key in kept or key in own:
                over[file] = None
            own.add(key)
            files[key] = file
    check_crops(owners, files, settings)
    if over:
        raise ImageFileError(f"{some(over)}: would be overwritten; give another --output or --guidance-map")


def check_crops(owners: Mapping[str, Path], files: Mapping[str, Path], settings: Settings) -> None:
    """Raise ImageFileError if a file of one input may be a crop of another one's faces.

    Args:
        owners: inputs by the keys of what is written for them.
        files: the same keys' files.
        settings: the run.
    """
    for key, path in owners.items():
        other = owners.get(_crop_of(key), path)
        if other is not path:
            raise ImageFileError(clash(other, path, files[key], settings))


def _crop_of(key: str) -> str:
    """The beginning of crops' names that a file of this name would be one of; else ""."""
    found = CROP_FILE.fullmatch(key)
    return found[1] if found else ""


def clash(first: Path, second: Path, file: Path, settings: Settings) -> str:
    """Return the message for two inputs whose files have the same name, with a solution."""
    outs = ["rename one"]
    if first.stem == second.stem and first.suffix.lower() != second.suffix.lower():
        outs = ["give --format same"] * (settings.recipe.format != "same") + outs
    outs += ["give another --guidance-map"] * (settings.guidance_map is not None)
    return f"{first} and {second}: both would be written as {file}; {', or '.join(outs)}"


def some(names: Iterable[object]) -> str:
    """Return the first few of `names` and the number of the others."""
    texts = [str(name) for name in names]
    return ", ".join(texts[:NAMED]) + (f" and {len(texts) - NAMED} more" if len(texts) > NAMED else "")


def remove_leftovers(folders: Iterable[Path], alone: bool) -> None:
    """Remove temporary files of runs that were killed while they wrote.

    Args:
        folders: where to look; they need not exist.
        alone: whether all writers to these folders run on this machine. Then a process that is not here is dead.
    """
    for folder in filter(Path.is_dir, folders):
        for file in folder.glob(".*.tmp"):
            found = TEMPORARY.fullmatch(file.name)
            if found and (is_stale(file) or (alone and is_dead(int(found[1])))):
                file.unlink(missing_ok=True)


def is_stale(file: Path) -> bool:
    """Whether a temporary file is too old to be in use."""
    try:
        return time.time() - file.stat().st_mtime > STALE
    except OSError:
        return False


def is_dead(process: int) -> bool:
    """Whether a process is known to have ended. Only POSIX can ask this without harm."""
    if os.name != "posix":
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False
