"""Copies of images for a page: upright, in 8 bits, in formats that browsers can show."""

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffbir_jax.console.progress import tallied
from diffbir_jax.evaluation.report.sheet import SHARED, Pane, Sheet
from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.imaging.photo import Photo
from diffbir_jax.imaging.reading import read_image
from diffbir_jax.imaging.writing import write_photo

# Copies of up to this many pixels are lossless (PNG). Larger ones are JPEG: 100 large images would take gigabytes.
LOSSLESS_PIXELS = 512 * 512
QUALITY = 95
THREADS = 4  # each holds one picture
_OURS = re.compile(rf"\d+-({'|'.join(SHARED)}|\d+)\.(png|jpg)")


@dataclass(frozen=True)
class Picture:
    """A copy: its address relative to the page, with "/", and its size in pixels."""

    address: str
    height: int
    width: int


def copy_pictures(sheet: Sheet, cases: Sequence[int], folder: Path) -> dict[int, list[Picture | None]]:
    """Copy the pictures of `cases` to `folder`/report, and remove copies left there by an earlier report.

    Args:
        sheet: its images have files, relative to `folder` or absolute.
        cases: indices of `sheet.images`.
        folder: folder of the page.

    Returns:
        The pictures of each case in the order of `sheet.panes`; None if the file is missing or cannot be read.

    Raises:
        ImageFileError: a copy cannot be written.
    """

    def copied(case: int) -> list[Picture | None]:
        return [_copy(_candidates(sheet, case, pane), folder, _stem(case, pane)) for pane in sheet.panes]

    with ThreadPoolExecutor(THREADS) as pool:
        rows = tallied(pool.map(copied, cases), "report", len(cases))
        found = dict(zip(cases, rows))
    written = {picture.address for pictures in found.values() for picture in pictures if picture}
    # Only files with names of our own pattern are removed: the folder may hold others.
    for path in _stale(folder / "report", written):
        path.unlink()
    return found


def _candidates(sheet: Sheet, case: int, pane: Pane) -> list[str]:
    """List the files from which a picture may be read."""
    places = range(len(sheet.results)) if pane.method is None else (pane.method,)
    files = [sheet.by_name[i][sheet.images[case]].files.get(pane.key) for i in places]
    return [file for file in dict.fromkeys(files) if file is not None]


def _stem(case: int, pane: Pane) -> str:
    return f"{case:05d}-{pane.key if pane.method is None else pane.method + 1}"


def _copy(candidates: Sequence[str], folder: Path, stem: str) -> Picture | None:
    """Copy the first file that can be read."""
    for candidate in candidates:
        try:
            image = read_image(folder / candidate)
        except ImageFileError:
            continue
        return _write(image, folder, stem)
    return None


def _write(image: np.ndarray, folder: Path, stem: str) -> Picture:
    height, width = image.shape[:2]
    suffix = ".png" if height * width <= LOSSLESS_PIXELS else ".jpg"
    address = f"report/{stem}{suffix}"
    write_photo(folder / address, Photo(image), quality=QUALITY)
    return Picture(address, height, width)


def _stale(folder: Path, written: set[str]) -> Iterator[Path]:
    for path in sorted(folder.glob("*")):
        if _OURS.fullmatch(path.name) and f"{folder.name}/{path.name}" not in written:
            yield path
