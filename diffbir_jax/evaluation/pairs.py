"""Matching of predictions and ground truths, checked before any scoring."""

import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffbir_jax.batch.names import ASIDE
from diffbir_jax.console.progress import tallied
from diffbir_jax.console.threads import in_threads
from diffbir_jax.files.digest import sha256
from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.imaging.listing import list_folder
from diffbir_jax.imaging.photo import MAX_PIXELS
from diffbir_jax.imaging.reading import read_image

# Pixels per side that `--crop-to-common` may cut off: rounding of sizes explains one.
SPARE = 1
Size = tuple[int, int]
# A message lists this many names and counts the rest.
SHOWN = 10


@dataclass(frozen=True)
class Case:
    """One image of an evaluation.

    Attributes:
        name: path below the folder without the suffix, with "/".
        preds: its results, one per seed.
        gt: its ground truth, or None.
        lq: the input of the restoration, or None.
        digests: SHA-256 of the files of `preds` and `gt`; only in checked cases.
        cut: (height, width) to which its images are cut, from the top left corner; None if they are of one size.
        max_pixels: largest number of pixels of a file.
    """

    name: str
    preds: tuple[Path, ...]
    gt: Path | None = None
    lq: Path | None = None
    digests: Mapping[Path, str] = field(default_factory=dict)
    cut: Size | None = None
    max_pixels: int = MAX_PIXELS

    def read(self, path: Path) -> np.ndarray:
        """Read one of its images, (H, W, 3) uint8, as it is scored; ImageFileError if that fails."""
        image = read_image(path, self.max_pixels)
        return image if self.cut is None else image[: self.cut[0], : self.cut[1]]

    @property
    def scored(self) -> tuple[Path, ...]:
        """The files that scores depend on."""
        return self.preds if self.gt is None else (*self.preds, self.gt)

    @property
    def several(self) -> bool:
        """Whether there is more than one result, and so a deviation over seeds."""
        return len(self.preds) > 1


def find_cases(
    preds: Sequence[Path], gt: Path | None = None, lq: Path | None = None, exclude: Iterable[Path] = ()
) -> list[Case]:
    """Match images of several folders, subfolders included, by their paths without suffixes.

    Args:
        preds: folders of results of the same images, one per seed. Pictures that `diffbir restore` writes beside its
            results are left out, unless there are ground truths of their names.
        gt: folder of ground truths.
        lq: folder of the images that were restored; may hold others, too.
        exclude: subfolders to leave out, such as that of the evaluation. Pictures of reports are also left out.

    Returns:
        The cases, sorted by name.

    Raises:
        ImageFileError: a folder is missing, empty or given for two seeds, or names are ambiguous or differ; the error
            covers all names.
    """
    cases, problems = match_cases(preds, gt, lq, exclude)
    _raise_all(problems)
    return cases


def match_cases(
    preds: Sequence[Path], gt: Path | None = None, lq: Path | None = None, exclude: Iterable[Path] = ()
) -> tuple[list[Case], list[str]]:
    """Match images as `find_cases` does, but return what is wrong with names, so that files can be checked too.

    Returns:
        The cases, with those files that are there; and the problems, one text per kind and folder.

    Raises:
        ImageFileError: a folder is missing, empty or given for two seeds.
    """
    # A folder that is given twice would make the deviation over seeds too small.
    if len({folder.resolve() for folder in preds}) < len(preds):
        raise ImageFileError("--pred names a folder twice; give one folder per seed")
    left_out, problems = list(exclude), list[str]()
    truths, inputs = (_by_name(folder, left_out, problems) if folder else {} for folder in (gt, lq))
    results = [_without_asides(_by_name(folder, left_out, problems), truths) for folder in preds]
    names = set(truths).union(*results)
    wanted = [*(("prediction", folder, files) for folder, files in zip(preds, results))]
    wanted += [
        (what, x, files) for what, x, files in (("ground truth", gt, truths), ("input", lq, inputs)) if x
    ]
    if lacks := [_lack(what, names - set(files), x) for what, x, files in wanted if names - set(files)]:
        problems.append(
            f"the folders do not match: {'; '.join(lacks)}; every image needs one file of its name, whatever the "
            "suffix, in each"
        )
    cases = [
        Case(
            name,
            tuple(files[name] for files in results if name in files),
            truths.get(name),
            inputs.get(name),
        )
        for name in sorted(names)
    ]
    return cases, problems


def check_cases(
    cases: Sequence[Case],
    max_pixels: int = MAX_PIXELS,
    crop_to_common: bool = False,
    problems: Iterable[str] = (),
) -> list[Case]:
    """Read all images once; return the cases with `digests`.

    Args:
        cases: as `find_cases` returns them.
        max_pixels: largest number of pixels of a file.
        crop_to_common: cut images of a case whose sides differ by one pixel to the common size (`Case.cut`).
        problems: of the cases' names, see `match_cases`.

    Raises:
        ImageFileError: there are problems, images cannot be read, or sizes of one case differ; the error covers all.
    """
    cases = [replace(case, max_pixels=max_pixels) for case in cases]
    # Threads help, because decoding and hashing release Python's lock.
    looked = in_threads(_look, cases, min(8, os.cpu_count() or 1))
    seen = list(tallied(looked, "checking", len(cases)))
    found = [*problems, *_unreadable({path: x for look in seen for path, x in look.errors.items()})]
    if crop_to_common:
        cases = [replace(case, cut=_common([*look.sizes.values()])) for case, look in zip(cases, seen)]
    if odd := [text for case, look in zip(cases, seen) if (text := _odd_size(case, look.sizes))]:
        found.append(
            f"{len(odd)} of {len(cases)} images differ in size from what they are compared with: {_few(odd)}; "
            f"give images of one size (width x height); --crop-to-common cuts a difference of {SPARE} pixel per side"
        )
    _raise_all(found)
    return [replace(case, digests=look.digests) for case, look in zip(cases, seen)]


class _Look(NamedTuple):
    """What the files of a case are: (height, width) and digest of those that can be read, and errors of the others."""

    sizes: dict[Path, Size]
    digests: dict[Path, str]
    errors: dict[Path, ImageFileError]


def _look(case: Case) -> _Look:
    look = _Look({}, {}, {})
    for path in case.scored:
        try:
            height, width = case.read(path).shape[:2]
            look.sizes[path], look.digests[path] = (height, width), sha256(path)
        except ImageFileError as error:
            look.errors[path] = error
    return look


def _unreadable(errors: Mapping[Path, ImageFileError]) -> list[str]:
    """Describe files that cannot be read."""
    texts = [f"{path} ({str(error).removeprefix(f'{path}: ')})" for path, error in errors.items()]
    files = "1 file" if len(texts) == 1 else f"{len(texts)} files"
    return [f"{files} cannot be read: {_few(texts)}"] if texts else []


def _raise_all(problems: Sequence[str]) -> None:
    if problems:
        raise ImageFileError(". ".join(problems))


def _common(sizes: Sequence[Size]) -> Size | None:
    """Return the size that all images have a part of, if they differ by `SPARE` pixels at most; else None."""
    if not sizes:
        return None
    heights, widths = zip(*sizes)
    near = max(heights) - min(heights) <= SPARE and max(widths) - min(widths) <= SPARE
    return (min(heights), min(widths)) if near and len(set(sizes)) > 1 else None


def _odd_size(case: Case, sizes: Mapping[Path, Size]) -> str:
    """Describe the first file with another size than the ground truth (without one: than the first result)."""
    known = [path for path in (case.gt, *case.preds) if path is not None and path in sizes]
    if case.cut is not None or not known:
        return ""
    wanted = sizes[known[0]]
    for path in known:
        if (size := sizes[path]) != wanted:
            return f"{path} is {size[1]}x{size[0]}, not {wanted[1]}x{wanted[0]}"
    return ""


def _by_name(folder: Path, exclude: Iterable[Path], problems: list[str]) -> dict[str, Path]:
    """Return the images of a folder by `Case.name`; add to `problems` if several have one name."""
    files: dict[str, list[Path]] = {}
    # A report's copies of the images have other names and must not count as results.
    copies = [page.with_name("report") for page in folder.rglob("report.html")]
    for path in list_folder(folder, [*exclude, *copies]).images:
        # Systems write accents in one or in two characters; both are one name.
        name = unicodedata.normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())
        files.setdefault(name, []).append(path)
    if double := [paths for paths in files.values() if len(paths) > 1]:
        told = _few([" and ".join(path.relative_to(folder).as_posix() for path in paths) for paths in double])
        problems.append(f"{folder}: names without suffixes must differ: {told}; keep one of each")
    return {name: paths[0] for name, paths in files.items()}


def _without_asides(files: Mapping[str, Path], truths: Mapping[str, Path]) -> dict[str, Path]:
    """Return results without the comparisons, stage-1 images and maps that lie beside them."""

    def aside(name: str) -> bool:
        stem = ASIDE.sub("", name)
        return stem != name and (stem in files or f"{stem}_1" in files)

    return {name: path for name, path in files.items() if name in truths or not aside(name)}


def _lack(what: str, names: set[str], folder: Path) -> str:
    """Describe the names that have no file in a folder."""
    images = "1 image has" if len(names) == 1 else f"{len(names)} images have"
    return f"{images} no {what} in {folder} ({_few(sorted(names))})"


def _few(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more
