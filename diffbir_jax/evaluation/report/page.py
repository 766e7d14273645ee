"""The whole page: a template, filled by the other modules, with style, script and data inside."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np

from diffbir_jax.console.errors import UserError
from diffbir_jax.evaluation.report import overview
from diffbir_jax.evaluation.report.cards import card
from diffbir_jax.evaluation.report.markup import count, options
from diffbir_jax.evaluation.report.pictures import Picture, copy_pictures
from diffbir_jax.evaluation.report.sheet import Sheet
from diffbir_jax.evaluation.result import Result
from diffbir_jax.files.writing import replace_file


def write_report(results: Sequence[Result], folder: Path, *, cases: int = 100) -> Path:
    """Write `folder`/report.html and, in `folder`/report, copies of the pictures that it shows.

    Both together can be moved or published as they are: the page refers to no other files. Pictures of up to 512x512
    pixels are copied without loss, larger ones as JPEG of quality 95. If a picture cannot be read, the page says so.
    Equal results and pictures give equal bytes.

    Args:
        results: one per method, on the same images; `Image.files` are relative to `folder` or absolute.
        folder: made if missing.
        cases: most images with pictures: the worst by any metric.

    Returns:
        The page's path.

    Raises:
        ValueError: there is no result, results have different images, or `cases` is negative.
        ImageFileError: the page or a copy cannot be written.
    """
    if cases < 0:
        raise UserError(f"cases is {cases}; give how many images get pictures at most, 0 or more")
    sheet = Sheet(tuple(results))
    pictures = copy_pictures(sheet, sheet.cases(cases), folder)
    path = folder / "report.html"
    # File names may hold bytes that are not UTF-8; they must not stop the report.
    replace_file(path, _page(sheet, pictures).encode("utf-8", "backslashreplace"))
    return path


def _page(sheet: Sheet, pictures: Mapping[int, Sequence[Picture | None]]) -> str:
    page, style, *scripts = map(part, ("page.html", "page.css", "compare.js", "page.js"))
    # Restoration fails on few images; the worst come first, because they show how.
    order = [case for case in sheet.worst_first(sheet.leading, sheet.best) if case in pictures]
    titles = {i: pane.title for i, pane in enumerate(sheet.panes)}
    # The page holds style and script, so it works from a disk and offline.
    return Template(page).substitute(
        title=escape(_title(sheet)),
        style=style,
        script="".join(scripts),
        data=as_json(_data(sheet, pictures)),
        lead=overview.lead(sheet),
        details=overview.details(sheet),
        summary=overview.summary(sheet),
        unavailable=overview.unavailable(sheet),
        plots=overview.plots(sheet, order),
        metrics=options({metric: sheet.columns[metric].title for metric in sheet.scores}, sheet.leading),
        orders=_orders(sheet),
        left=options(titles, sheet.sides[0]),
        right=options(titles, sheet.sides[1]),
        left_out=_left_out(len(order), len(sheet.images)),
        cards="".join(card(sheet, case, pictures[case]) for case in order),
    )


def part(name: str) -> str:
    """Return the text of a file beside this module."""
    return (files("diffbir_jax.evaluation.report") / name).read_text("utf-8")


def _title(sheet: Sheet) -> str:
    return sheet.methods[0] if len(sheet.methods) == 1 else f"{len(sheet.methods)} methods compared"


def _orders(sheet: Sheet) -> str:
    """Offer the scores that can order the images: one method's, any method's, or one's loss to another ("1-0")."""
    methods = dict(enumerate(sheet.methods))
    if len(methods) == 1:
        return options(methods, 0)
    losses = {
        f"{i}-{j}": f"{a} against {b}" for i, a in methods.items() for j, b in methods.items() if i != j
    }
    return (
        options({**methods, "any": "any method"}, sheet.best)
        + f'<optgroup label="What one loses">{options(losses)}</optgroup>'
    )


def _left_out(shown: int, total: int) -> str:
    if shown == total:
        return ""
    return (
        f"Shown are {count(shown, 'image')}, the worst by any metric; {total - shown:,} more are left out here. "
        "Table and plots are of all, with pale dots for these."
    )


def _data(sheet: Sheet, pictures: Mapping[int, Sequence[Picture | None]]) -> dict[str, object]:
    """Collect the data with which the script orders, filters and changes pictures."""
    return {
        "better": {metric: sheet.columns[metric].better for metric in sheet.scores},
        "panes": [pane.title for pane in sheet.panes],
        "images": {
            case: {
                "name": sheet.images[case],
                "scores": {metric: _plain(scores[:, case]) for metric, scores in sheet.scores.items()},
                "pictures": [picture and picture.address for picture in row],
            }
            for case, row in pictures.items()
        },
    }


def _plain(values: np.ndarray) -> list[float | None]:
    # JSON has no NaN.
    return [value if np.isfinite(value) else None for value in values.tolist()]


def as_json(value: object) -> str:
    """Return JSON for a <script>: nothing in it ends the element or starts a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
