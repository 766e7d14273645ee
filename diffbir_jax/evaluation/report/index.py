"""The page of `diffbir restore --open`: before and after of every result in the output folder.

It refers to inputs and results where they are. Pictures that browsers cannot show are inside it as small JPEG files.
"""

import base64
import os
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import NamedTuple
from urllib.parse import quote

import numpy as np

from diffbir_jax.batch.done import is_done
from diffbir_jax.batch.jobs import Job
from diffbir_jax.batch.report import report_path
from diffbir_jax.batch.settings import FlagError, Settings
from diffbir_jax.console.plain import counted
from diffbir_jax.evaluation.report.markup import options
from diffbir_jax.evaluation.report.page import as_json, part
from diffbir_jax.evaluation.report.pictures import Picture
from diffbir_jax.evaluation.report.viewer import viewer
from diffbir_jax.files.writing import replace_file
from diffbir_jax.imaging.bytes import resize_bytes
from diffbir_jax.imaging.headers import header_size
from diffbir_jax.imaging.photo import Photo
from diffbir_jax.imaging.reading import read_image
from diffbir_jax.imaging.writing import encode_photo

NAME = "index.html"
# In the template: tells a page of ours, which is replaced, from a page of the user.
MARK = b'content="diffbir restore --open"'
SHOWN = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".avif", ".bmp")
# Longest side and quality of pictures inside the page.
LONGEST, QUALITY = 1024, 85


class Pane(NamedTuple):
    """A picture of every job: its title and its file for a job."""

    title: str
    file: Path


def index_path(settings: Settings) -> Path:
    """Return where the page of a run goes; FlagError if a page of the user is there. Each host has its own."""
    path = report_path(settings.output / NAME, settings.hosts, settings.host_index)
    if path.exists() and not (path.is_file() and MARK in path.read_bytes()):
        raise FlagError(f"{path}: is no page of --open and would be overwritten; give another --output")
    return path


def write_index(path: Path, jobs: Sequence[Job], settings: Settings) -> int:
    """Write the page of the jobs whose files all exist, and return how many these are.

    Args:
        path: see `index_path`; file names that are no UTF-8 are shown with escapes.
        jobs: of the run.
        settings: of the run.

    Raises:
        ImageFileError: the page cannot be written.
    """
    done = [job for job in jobs if is_done(job)]
    replace_file(path, _page(path, done, jobs, settings).encode("utf-8", "backslashreplace"))
    return len(done)


def _page(path: Path, done: Sequence[Job], jobs: Sequence[Job], settings: Settings) -> str:
    recipe, gone = settings.recipe, [job for job in jobs if job not in set(done)]
    titles = [pane.title for pane in _panes(done[0])] if done else []
    pictures = [[_picture(pane.file, path.parent) for pane in _panes(job)] for job in done]
    sides = (
        (0, titles.index("result") if "result" in titles else titles.index("result 1")) if titles else (0, 0)
    )
    choices = dict(enumerate(titles))
    images = {
        place: {"name": str(job.name), "pictures": [found and found.address for found in row]}
        for place, (job, row) in enumerate(zip(done, pictures))
    }
    cards = (
        _card(place, job, titles, row, sides, path.parent)
        for place, (job, row) in enumerate(zip(done, pictures))
    )
    return Template(part("index.html")).substitute(
        title=escape(f"{counted(len(done), 'result')} of diffbir"),
        style=part("page.css"),
        script=part("compare.js"),
        lead=escape(f"Version {recipe.version}, upscale {recipe.upscale:g}."),
        left=_left(gone),
        sides_left=options(choices, sides[0]),
        sides_right=options(choices, sides[1]),
        cards="".join(cards),
        data=as_json({"panes": titles, "images": images}),
    )


def _panes(job: Job) -> list[Pane]:
    return [*_all_panes(job)]


def _all_panes(job: Job) -> Iterator[Pane]:
    """The pictures of a job, the same number for every job of a run."""
    outputs = job.outputs
    yield Pane("input", job.path)
    if outputs.stage1:
        yield Pane("stage 1", outputs.stage1)
    several = len(outputs.results) > 1
    for number, file in enumerate(outputs.results, 1):
        yield Pane(f"result {number}" if several else "result", file)
    if outputs.deviation:
        yield Pane("invented detail", outputs.deviation)


def _left(jobs: Sequence[Job]) -> str:
    """What was not restored, in words."""
    if not jobs:
        return ""
    names = "".join(f"<li>{escape(str(job.name))}</li>" for job in jobs)
    return f"<details><summary>{counted(len(jobs), 'image')} not restored</summary><ul>{names}</ul></details>"


def _card(
    place: int,
    job: Job,
    titles: Sequence[str],
    pictures: Sequence[Picture | None],
    sides: tuple[int, int],
    folder: Path,
) -> str:
    name, result = str(job.name), pictures[sides[1]] or Picture("", 2, 3)
    links = [(pane.title, pane.file) for pane in _panes(job)]
    links += [("settings", job.outputs.sidecar)] if job.outputs.sidecar else []
    files = ", ".join(f'<a href="{_address(file, folder)}">{escape(title)}</a>' for title, file in links)
    return (
        f'<article class="case" id="image-{place}" data-image="{place}" tabindex="-1"'
        f' style="--ratio:{result.width / result.height:.4f}"><h3>{escape(name)}</h3>'
        f"{viewer(name, titles, pictures, sides)}"
        f'<p class="hint">{result.width}×{result.height} pixels. Files: {files}</p></article>'
    )


def _picture(file: Path, folder: Path) -> Picture | None:
    """A picture for the page: its file or, for what browsers cannot show, a small copy; None if it cannot be read."""
    try:
        if file.suffix.lower() not in SHOWN:
            return _inside(file)
        height, width = header_size(file)
    # Damaged files cause many types of errors; the run has told of them.
    except Exception:
        return None
    return Picture(_address(file, folder), height, width)


def _inside(file: Path) -> Picture:
    """A copy of at most `LONGEST` pixels a side as an address of its own; its sides are those of the file."""
    pixels = read_image(file)
    height, width = pixels.shape[:2]
    scale = min(1.0, LONGEST / max(height, width))
    small = resize_bytes(pixels, (max(1, round(height * scale)), max(1, round(width * scale))))
    data, _ = encode_photo(Photo(np.ascontiguousarray(small)), ".jpg", quality=QUALITY)
    return Picture(f"data:image/jpeg;base64,{base64.b64encode(data).decode()}", height, width)


def _address(file: Path, folder: Path) -> str:
    """A file's address from a page in `folder`; a whole one for another drive."""
    try:
        relative = os.path.relpath(file, folder)
    except ValueError:
        return file.absolute().as_uri()
    return quote(os.fsencode(relative.replace(os.sep, "/")))
