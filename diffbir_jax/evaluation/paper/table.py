"""Tables of the paper: small TOML files beside this module with its numbers and the runs that give ours."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from diffbir_jax.console.errors import UserError
from diffbir_jax.files.toml import read_toml

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Number:
    """One number of the paper.

    Attributes:
        suite: the suite that measures it.
        dataset: data set of the suite.
        metric: name of the metric.
        paper: the paper's value; None if the source states none.
        claim: what the paper says about it in words.
    """

    suite: str
    dataset: str
    metric: str
    paper: float | None = None
    claim: str = ""


@dataclass(frozen=True)
class Table:
    """The content of a table's file.

    Attributes:
        name: name of the file, without its suffix.
        title: in one line.
        source: where the paper's numbers come from.
        version: version of the networks.
        method: row of the suites that is compared.
        numbers: the numbers, in order.
        notes: where our protocol differs from the paper's, or may differ.
    """

    name: str
    title: str
    source: str
    version: str
    method: str
    numbers: tuple[Number, ...]
    notes: tuple[str, ...] = ()

    @property
    def suites(self) -> tuple[str, ...]:
        """The suites that it needs, in order."""
        return tuple(dict.fromkeys(number.suite for number in self.numbers))

    def of(self, suite: str) -> tuple[Number, ...]:
        """Return the numbers that a suite measures."""
        return tuple(number for number in self.numbers if number.suite == suite)

    def only(self, datasets: Iterable[str]) -> "Table":
        """Return the table with the numbers of some data sets; UserError if it has no such data set."""
        known = dict.fromkeys(number.dataset for number in self.numbers)
        if unknown := [name for name in datasets if name not in known]:
            raise UserError(
                f"--datasets: {unknown[0]!r} given, allowed with table {self.name} are {', '.join(known)}"
            )
        return replace(self, numbers=tuple(each for each in self.numbers if each.dataset in datasets))


def table_names() -> list[str]:
    """Return the names of all tables."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_table(name: str) -> Table:
    """Read the table `name`.

    Raises:
        ValueError: there is no such table, or its file is wrong.
    """
    path = FOLDER / f"{name}.toml"
    if not path.is_file():
        raise UserError(f"table {name!r} given, allowed are {', '.join(table_names())}")
    try:
        table = read_toml(path, Table, {"name": name})
        if not table.numbers:
            raise UserError("numbers need an entry")
    except ValueError as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from None
    return table
