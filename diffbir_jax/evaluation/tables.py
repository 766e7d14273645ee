"""Results as tables: Markdown, LaTeX and CSV."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from diffbir_jax.console.plain import plain
from diffbir_jax.console.tables import csv_table, markdown_table
from diffbir_jax.evaluation.result import Column, Image, Result
from diffbir_jax.files.writing import replace_file

# Decimals in which images of one set differ, by metric.
DIGITS = {"psnr": 2, "psnr_y": 2, "musiq": 2, "fid": 2, "niqe": 3, "spectral": 3, "energy": 3}
USUAL_DIGITS = 4
# Suffix of the name of a metric's standard deviation over seeds; its mean is G-STD of Sun et al. 2024.
DEVIATION = "_gstd"
# The protocol's number of images that were cut to the size that results and ground truths have in common.
CUT = "images_cut_to_common"
SPREADS = "Standard deviations over the results of one image: G-STD of the score, L-STD of pixels in [0, 1]. "
_LATEX = {char: f"\\{char}" for char in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    # These are other characters in LaTeX's default encoding.
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}
# What begins HTML, bold text, another cell or the address of a link, and backslashes that would escape something. All
# other characters stay, because people read the text on the screen, too.
_MARKDOWN = re.compile(r"[<*|]|(?<=\])\(|\\(?=[!-/:-@\[-`{-~])")


class Cell(NamedTuple):
    """A printed value, its interval ("" for none), whether it is the best, and the number of its note, or 0."""

    value: str
    interval: str = ""
    best: bool = False
    note: int = 0


@dataclass(frozen=True)
class Table:
    """Methods against metrics: `rows` of a name and a cell per column; cells refer to `notes` by numbers from 1."""

    columns: Sequence[Column]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    notes: Sequence[str]
    caption: str


def digits(name: str) -> int:
    """Return the decimals of a metric; a deviation over seeds has one more."""
    base = name.removesuffix(DEVIATION)
    return DIGITS.get(base, USUAL_DIGITS) + (base != name)


def all_columns(results: Sequence[Result]) -> dict[str, Column]:
    """Return the columns of all results by name, in order of first appearance."""
    return {name: column for result in results for name, column in result.columns.items()}


def make_tables(results: Sequence[Result], intervals: bool = True) -> list[Table]:
    """Return the means of results, a row each. The best of several is marked, and so are all equal to it.

    A missing mean is "-" with a note of the reason. A mean that lacks images has a note, too.

    Returns:
        The table of scores and, if there are results of several seeds, that of their deviations over seeds.
    """
    scores, spreads = {}, {}
    for name, column in all_columns(results).items():
        (spreads if column.kind == "spread" else scores)[name] = column
    # Rows without several seeds have no deviations and would be empty.
    steady = [result for result in results if spreads.keys() & result.columns.keys()]
    tables = [_table(results, scores, intervals)]
    return [*tables, _table(steady, spreads, intervals, SPREADS)] if steady else tables


def _table(results: Sequence[Result], columns: dict[str, Column], intervals: bool, legend: str = "") -> Table:
    notes: dict[str, int] = {}
    best = {name: _best(name, column, results) for name, column in columns.items()}
    rows = []
    for result in results:
        cells = []
        for name in columns:
            reason = _remark(name, result)
            # Equal reasons share a note.
            note = notes.setdefault(reason, len(notes) + 1) if reason else 0
            cells.append(_cell(name, result, best[name], note, intervals))
        rows.append((result.name, cells))
    return Table(list(columns.values()), rows, list(notes), legend + _caption(results, intervals))


def markdown(table: Table) -> str:
    """Return a table as Markdown, with its notes below."""

    def show(cell: Cell) -> str:
        value = f"**{cell.value}**" if cell.best else cell.value
        return value + f" {cell.interval}" * bool(cell.interval) + f" ({cell.note})" * bool(cell.note)

    head = [
        "method",
        *(f"{marked(column.title)} {'↑' if column.better == 'higher' else '↓'}" for column in table.columns),
    ]
    lines = [[marked(name), *map(show, cells)] for name, cells in table.rows]
    text = markdown_table(head, lines, right=range(1, len(head))) + f"\n{table.caption}\n"
    return text + "".join(
        f"\n({number}) {marked(plain(note))}\n" for number, note in enumerate(table.notes, 1)
    )


def latex(table: Table) -> str:
    """Return a table as a LaTeX tabular that needs no package, with its notes below."""

    def show(cell: Cell) -> str:
        value = rf"\textbf{{{cell.value}}}" if cell.best else cell.value
        interval = rf" {{\scriptsize {cell.interval}}}" if cell.interval else ""
        return value + interval + f"$^{{{cell.note}}}$" * bool(cell.note)

    arrows = {"higher": r"$\uparrow$", "lower": r"$\downarrow$"}
    head = ["Method", *(f"{escape(column.title)} {arrows[column.better]}" for column in table.columns)]
    lines = [[escape(name), *map(show, cells)] for name, cells in table.rows]
    body = [" & ".join(line) + r" \\" for line in [head, *lines]]
    notes = [rf"{{\footnotesize $^{{{i}}}$ {escape(note)}}}" for i, note in enumerate(table.notes, 1)]
    begin = rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}"
    parts = [
        f"% {table.caption}",
        begin,
        r"\hline",
        body[0],
        r"\hline",
        *body[1:],
        r"\hline",
        r"\end{tabular}",
    ]
    return "\n".join([*parts, *(rf"\par {note}" for note in notes)]) + "\n"


def images_csv(results: Sequence[Result]) -> str:
    """Return a line per method and image: scores in full precision, or empty with the reason."""
    columns = all_columns(results)
    rows = [_image_row(result, image, columns) for result in results for image in result.images]
    return csv_table([["method", "image", *columns, "problems"], *rows])


def _image_row(result: Result, image: Image, columns: Iterable[str]) -> list[str]:
    scores = [image.scores.get(name) for name in columns]
    problems = "; ".join(f"{name}: {problem}" for name, problem in image.problems.items())
    return [result.name, image.name, *("" if x is None else repr(x) for x in scores), problems]


def write_tables(results: Sequence[Result], folder: Path, intervals: bool = True) -> str:
    """Write images.csv, table.md and table.tex into `folder`, and return the Markdown.

    Raises:
        ImageFileError: they cannot be written.
    """
    tables = make_tables(results, intervals)
    text = "\n".join(map(markdown, tables))
    files = {"images.csv": images_csv(results), "table.md": text, "table.tex": "\n".join(map(latex, tables))}
    for name, content in files.items():
        replace_file(folder / name, content.encode("utf-8", "backslashreplace"))
    return text


def marked(text: str) -> str:
    """Return text escaped for Markdown: it makes no HTML, no link, no bold text and no further cell of a table."""
    return _MARKDOWN.sub(r"\\\g<0>", text)


def escape(text: str) -> str:
    """Return text escaped for LaTeX, control characters as escapes."""
    return "".join(_LATEX.get(char, char) for char in plain(text))


def _cell(name: str, result: Result, best: str | None, note: int, intervals: bool) -> Cell:
    mean = result.summary.get(name)
    if mean is None:
        return Cell("-", note=note)
    value, places = f"{mean.mean:.{digits(name)}f}", digits(name)
    shown = intervals and mean.low is not None and mean.high is not None
    return Cell(
        value, f"[{mean.low:.{places}f}, {mean.high:.{places}f}]" if shown else "", value == best, note
    )


def _best(name: str, column: Column, results: Sequence[Result]) -> str | None:
    """The best mean as printed, among means of the most images: means of fewer images had an easier task."""
    found = [result.summary[name] for result in results if name in result.summary]
    most = max((each.count for each in found), default=0)
    means = [each.mean for each in found if each.count == most]
    # The printed text is compared later, so that values which look equal are all bold.
    choose = max if column.better == "higher" else min
    return f"{choose(means):.{digits(name)}f}" if len(means) > 1 else None


def _remark(name: str, result: Result) -> str:
    """The reason why a mean is missing or lacks images; "" if it is complete."""
    lacking = [image for image in result.images if image.scores.get(name) is None]
    if name in result.unavailable:
        return f"not run: {result.unavailable[name]}"
    if name not in result.columns:
        return "not evaluated"
    if name not in result.summary:
        return f"no score of any image: {_first_problem(name, lacking)}"
    if (count := result.summary[name].count) < len(result.images):
        return f"mean of {count} of {len(result.images)} images: {_first_problem(name, lacking)}"
    return ""


def _first_problem(name: str, images: Sequence[Image]) -> str:
    found = [f"{image.name}: {image.problems[name]}" for image in images if name in image.problems]
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return found[0] + more if found else "no reason is known"


def _caption(results: Sequence[Result], intervals: bool) -> str:
    counts = sorted({len(result.images) for result in results if result.images})
    images = " or ".join(map(str, counts or [0])) + (" image" if counts == [1] else " images")
    seeds = max(result.protocol.get("results_per_image", 1) for result in results)
    several = f", of up to {seeds} results each" * (seeds > 1)
    # One image has no interval.
    means = [mean for result in results for mean in result.summary.values()]
    shown = intervals and any(mean.low is not None for mean in means)
    # The crop changes PSNR and SSIM, so a table must state it.
    crops = sorted({result.protocol.get("scoring", {}).get("crop", 0) for result in results if result.images})
    crop = "; border crop " + " or ".join(map(str, crops)) if any(crops) else ""
    brackets = ", in brackets 95 % bootstrap intervals" * shown
    return f"Means over {images}{several}{brackets}{crop}{_cut(results)}."


def _cut(results: Sequence[Result]) -> str:
    """Say how many images were cut to the common size."""
    counts = sorted({result.protocol.get(CUT, 0) for result in results})
    images = "image" if counts == [1] else "images"
    return f"; {' or '.join(map(str, counts))} {images} cut to the common size" if any(counts) else ""
