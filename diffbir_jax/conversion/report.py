"""The report of a conversion: a table for the reader and report.json for programs."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diffbir_jax.console.errors import UserError
from diffbir_jax.console.tables import aligned

REPORT = "report.json"


@dataclass(frozen=True)
class Entry:
    """A written file.

    Attributes:
        module: its name without suffix.
        arrays: number of arrays in it.
        parameters: number of values in the arrays.
        dtype: their stored precision.
        sha256: SHA-256 of the file.
        details: further facts for report.json.
    """

    module: str
    arrays: int
    parameters: int
    dtype: str
    sha256: str
    details: dict[str, object] = field(default_factory=dict)

    def describe(self) -> dict[str, object]:
        """The entry of report.json, without the name it has there."""
        facts = {"arrays": self.arrays, "parameters": self.parameters, "dtype": self.dtype}
        return {**facts, "sha256": self.sha256, **self.details}


def format_table(entries: Sequence[Entry]) -> str:
    """A line per file, under a header."""
    head = ("module", "arrays", "parameters", "dtype", "sha256")
    rows = [(e.module, f"{e.arrays:,}", f"{e.parameters:,}", e.dtype, e.sha256) for e in entries]
    return aligned([head, *rows], right=(1, 2))


def read_report(folder: Path) -> dict[str, object]:
    """The entries of earlier conversions into `folder`, by module; {} if there are none.

    Raises:
        IsADirectoryError: a folder has the name of the report.
        ValueError: the file there is no report.
    """
    path = folder / REPORT
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: remove it, or give another --output")
    if not path.is_file():
        return {}
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): remove it") from error
    # Another program's report.json must not be overwritten.
    if not isinstance(report, dict):
        raise UserError(f"{path} is no report of a conversion: remove it or choose another --output")
    return report


def write_report(folder: Path, report: dict[str, object]) -> None:
    """Write `report` into `folder`."""
    (folder / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def sha256_of(*files: Path) -> str:
    """SHA-256 of the contents of files, one after another, in hexadecimal."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            # In blocks: checkpoints are larger than memory.
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
