"""Tables as text."""

import csv
import io
import itertools
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence

from diffbir_jax.console.plain import plain

# Programs for tables take a cell that begins so for a formula, and would run it.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_table(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as CSV; texts that programs would take for formulas get an apostrophe in front."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([_harmless(cell) for cell in row] for row in rows)
    return file.getvalue()


def _harmless(cell: object) -> object:
    if not isinstance(cell, str) or not cell.startswith(_FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """Return rows of equal length as lines for a terminal, columns two spaces apart; those in `right` end alike.

    Control characters in cells become escapes.
    """
    rows = [[plain(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = (
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def wrapped(rows: Iterable[Sequence[str]], widths: Mapping[int, int]) -> list[list[str]]:
    """Return rows whose cells have at most so many characters, by column; what is more follows in further rows.

    A word that is longer stays whole.
    """
    found: list[list[str]] = []
    for row in rows:
        cells = [
            textwrap.wrap(cell, widths[i], break_long_words=False, break_on_hyphens=False)
            if i in widths
            else [cell]
            for i, cell in enumerate(row)
        ]
        found += [list(line) for line in itertools.zip_longest(*cells, fillvalue="")]
    return found


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    r"""Return a table in Markdown; columns in `right` are aligned there.

    Cells are Markdown, so "|" is "\|" in them. Control characters in them become escapes.
    """
    rule = ["---:" if i in right else "---" for i in range(len(head))]
    return "".join(f"| {' | '.join(map(plain, row))} |\n" for row in (head, rule, *rows))
