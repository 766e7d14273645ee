"""Matching of predictions and ground truths, checked before any scoring."""

import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from diffbir_jax.batch.names import ASIDE
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
SHOWN = 3


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
            covers all names that differ.
    """
    # A folder that is given twice would make the deviation over seeds too small.
    if len({folder.resolve() for folder in preds}) < len(preds):
        raise ImageFileError("--pred names a folder twice; give one folder per seed")
    left_out = list(exclude)
    truths, inputs = (_by_name(folder, left_out) if folder else {} for folder in (gt, lq))
    results = [_without_asides(_by_name(folder, left_out), truths) for folder in preds]
    names = set(truths).union(*results)
    wanted = [*(("prediction", folder, files) for folder, files in zip(preds, results))]
    wanted += [
        (what, x, files) for what, x, files in (("ground truth", gt, truths), ("input", lq, inputs)) if x
    ]
    if lacks := [_lack(what, names - set(files), x) for what, x, files in wanted if names - set(files)]:
        raise ImageFileError(
            f"the folders do not match: {'; '.join(lacks)}; every image needs one file of its name, whatever the "
            "suffix, in each"
        )
    return [
        Case(name, tuple(files[name] for files in results), truths.get(name), inputs.get(name))
        for name in sorted(names)
    ]


def check_cases(
    cases: Sequence[Case], max_pixels: int = MAX_PIXELS, crop_to_common: bool = False
) -> list[Case]:
    """Read all images once; return the cases with `digests`.

    Args:
        cases: as `find_cases` returns them.
        max_pixels: largest number of pixels of a file.
        crop_to_common: cut images of a case whose sides differ by one pixel to the common size (`Case.cut`).

    Raises:
        ImageFileError: an image cannot be read, or sizes of one case differ.
    """
    cases = [replace(case, max_pixels=max_pixels) for case in cases]
    # Threads help, because decoding and hashing release Python's lock.
    looked = in_threads(_look, cases, min(8, os.cpu_count() or 1))
    seen = list(tqdm(looked, "checking", len(cases), unit="image", disable=None, leave=False))
    if unreadable := [each for each in seen if isinstance(each, ImageFileError)]:
        more = len(unreadable) - 1
        raise ImageFileError(f"{unreadable[0]}" + f" ({more} more cannot be read)" * bool(more))
    facts = [each for each in seen if not isinstance(each, ImageFileError)]
    if crop_to_common:
        cases = [replace(case, cut=_common(sizes)) for case, (sizes, _) in zip(cases, facts)]
    if odd := [text for case, (sizes, _) in zip(cases, facts) if (text := _odd_size(case, sizes))]:
        raise ImageFileError(
            f"{len(odd)} of {len(cases)} images differ in size from what they are compared with: {_few(odd)}; "
            f"give images of one size (width x height); --crop-to-common cuts a difference of {SPARE} pixel per side"
        )
    return [replace(case, digests=digests) for case, (_, digests) in zip(cases, facts)]


def _look(case: Case) -> tuple[list[Size], dict[Path, str]] | ImageFileError:
    """(Height, width) and digests of a case's files, or the error if one cannot be read."""
    try:
        sizes = [case.read(path).shape[:2] for path in case.scored]
        return sizes, {path: sha256(path) for path in case.scored}  # pyright: ignore[reportReturnType]
    except ImageFileError as error:
        return error


def _common(sizes: Sequence[Size]) -> Size | None:
    """Return the size that all images have a part of, if they differ by `SPARE` pixels at most; else None."""
    heights, widths = zip(*sizes)
    near = max(heights) - min(heights) <= SPARE and max(widths) - min(widths) <= SPARE
    return (min(heights), min(widths)) if near and len(set(sizes)) > 1 else None


def _odd_size(case: Case, sizes: Sequence[Size]) -> str:
    """Describe the first file with another size than the ground truth (without one: than the first result)."""
    if case.cut is not None:
        return ""
    # `scored` lists the ground truth last.
    wanted = sizes[-1] if case.gt is not None else sizes[0]
    for path, size in zip(case.preds, sizes):
        if size != wanted:
            return f"{path} is {size[1]}x{size[0]}, not {wanted[1]}x{wanted[0]}"
    return ""


def _by_name(folder: Path, exclude: Iterable[Path]) -> dict[str, Path]:
    """Return the images of a folder by `Case.name`."""
    files: dict[str, list[Path]] = {}
    # A report's copies of the images have other names and must not count as results.
    copies = [page.with_name("report") for page in folder.rglob("report.html")]
    for path in list_folder(folder, [*exclude, *copies]).images:
        # Systems write accents in one or in two characters; both are one name.
        name = unicodedata.normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())
        files.setdefault(name, []).append(path)
    if double := [paths for paths in files.values() if len(paths) > 1]:
        told = _few([" and ".join(path.relative_to(folder).as_posix() for path in paths) for paths in double])
        raise ImageFileError(f"{folder}: names without suffixes must differ: {told}; keep one of each")
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
