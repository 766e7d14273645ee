"""The table of a sweep: settings, and the last and best value of each validation metric."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

from diffbir_jax.console.tables import csv_table, markdown_table
from diffbir_jax.training.writers import Line

PREFIX = "validation/"
# The lowest value is the best for metrics whose names begin with these; for all others the highest is.
LOWER_IS_BETTER = ("loss", "lpips", "dists", "niqe", "fid", "spectral")
Cell = str | int | float


class State(TypedDict):
    """How far a run is, and why it failed."""

    state: str
    reason: NotRequired[str]


class Row(State):
    """A run, with its settings and its metrics.jsonl."""

    overrides: Mapping[str, Cell]
    lines: Sequence[Line]


def write_tables(rows: Sequence[Row], folder: Path) -> None:
    """Write results.csv and results.md to `folder`.

    Args:
        rows: one per run: `overrides`, `state`, perhaps `reason`, and `lines`, its metrics.jsonl.
        folder: folder of the tables.
    """
    cells = [_cells(row) for row in rows]
    reasons = [row.pop("reason") for row in cells]
    columns = list(dict.fromkeys(name for row in cells for name in row))
    if any(reasons):
        # Reasons are long texts, so they come last.
        columns.append("reason")
    full = [[{**row, "reason": why}.get(name, "") for name in columns] for row, why in zip(cells, reasons)]
    (folder / "results.csv").write_text(csv_table([columns, *full]), "utf-8")
    table = markdown_table(columns, [[_short(cell) for cell in row] for row in full])
    (folder / "results.md").write_text(table, "utf-8")


def _cells(row: Row) -> dict[str, Cell]:
    """Return the cells of a run by column."""
    lines = row["lines"]
    step = lines[-1]["step"] if lines else 0
    start = {**row["overrides"], "state": row["state"], "step": step}
    return start | _metrics(lines) | {"reason": row.get("reason", "")}


def _metrics(lines: Sequence[Line]) -> dict[str, Cell]:
    """Return the last and the best value of each validation metric."""
    names = dict.fromkeys(name for line in lines for name in line if name.startswith(PREFIX))
    cells: dict[str, Cell] = {}
    for name in names:
        values = [line[name] for line in lines if line.get(name) is not None]
        metric = name.removeprefix(PREFIX)
        if values:
            best = min if metric.startswith(LOWER_IS_BETTER) else max
            cells |= {f"{metric} last": values[-1], f"{metric} best": best(values)}
    return cells


def _short(cell: Cell) -> str:
    """Format a cell for Markdown: four digits; a bar would end the cell."""
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell).replace("|", "\\|")
