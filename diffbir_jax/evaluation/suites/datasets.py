"""The images of a suite: their folders, and a check before the run that all are present and correct."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffbir_jax.console.errors import UserError
from diffbir_jax.evaluation.pairs import Case, find_cases
from diffbir_jax.evaluation.suites.spec import Dataset, Suite
from diffbir_jax.files.digest import sha256


@dataclass(frozen=True)
class Images:
    """A dataset that was found.

    Attributes:
        dataset: its entry in the suite.
        lq: the folder of inputs.
        gt: the folder of ground truths, or None.
        cases: the inputs, in the place of results in `Case`, sorted by name.
    """

    dataset: Dataset
    lq: Path
    gt: Path | None
    cases: tuple[Case, ...]


def find_datasets(suite: Suite, data: Path | None, names: Sequence[str] | None = None) -> list[Images]:
    """Find the images of a suite.

    Args:
        suite: the suite.
        data: holds a folder per dataset with `lq` and, with ground truths, `gt`; None for a suite that ships its
            images.
        names: datasets to look for, all by default.

    Raises:
        ValueError: there is no such dataset, folders are missing (the error lists all, with their sources), or a file
            of the suite differs from the one that it names.
        ImageFileError: a folder is empty, or names of inputs and ground truths do not match.
    """
    if unknown := sorted(set(names or ()) - {dataset.name for dataset in suite.datasets}):
        allowed = ", ".join(dataset.name for dataset in suite.datasets)
        raise UserError(f"--datasets: {unknown[0]!r} given, allowed with --suite {suite.name} are {allowed}")
    # Ignoring the flag would score other images than the user expects.
    if suite.shipped and data is not None:
        raise UserError(f"--data is {data}, but suite {suite.name} ships its images: leave it out")
    chosen = [dataset for dataset in suite.datasets if names is None or dataset.name in names]
    root = suite.shipped or data
    if names is None:
        chosen = [each for each in chosen if not each.own or (root and (root / each.name).is_dir())]
    _check_folders(suite, chosen, root)
    assert root is not None  # else folders are missing
    _check_sums(suite)
    return [_found(dataset, root / dataset.name) for dataset in chosen]


def _check_folders(suite: Suite, datasets: Iterable[Dataset], root: Path | None) -> None:
    """Raise ValueError with a list of all missing folders."""
    wanted = {}
    for dataset in datasets:
        kinds = ("lq", "gt") if dataset.truths else ("lq",)
        place = (root or Path("DIR")) / dataset.name
        missing = [str(place / kind) for kind in kinds if root is None or not (place / kind).is_dir()]
        if missing:
            wanted[f"{' and '.join(missing)}: {dataset.name} ({dataset.images})"] = dataset.published
    if wanted:
        told = "; ".join(f"{what}, from {source}" for what, source in wanted.items())
        given = "give --data DIR with" if root is None else "make"
        raise UserError(
            f"suite {suite.name} lacks images, {given} these folders (of so many images), or choose others by "
            f"--datasets: {told}"
        )


def _check_sums(suite: Suite) -> None:
    """Raise ValueError unless the suite's files have the checksums in the suite."""
    for name, digest in suite.sha256.items():
        path = suite.shipped / name if suite.shipped else Path(name)
        if not path.is_file() or sha256(path) != digest:
            wrong = "is not the file that the suite names" if path.is_file() else "is missing"
            raise UserError(f"{path} {wrong} (SHA-256 {digest}): install diffbir_jax anew")


def _found(dataset: Dataset, folder: Path) -> Images:
    lq, gt = folder / "lq", folder / "gt" if dataset.truths else None
    cases = tuple(find_cases([lq], gt))
    if len(cases) != dataset.images and not dataset.own:
        # A warning, not an error: parts of a data set are useful for trials.
        warnings.warn(
            f"{lq} holds {len(cases)} images, {dataset.name} has {dataset.images}: scores are not comparable with "
            "those of others",
            stacklevel=2,
        )
    return Images(dataset, lq, gt, cases)
