"""A grid of training runs, one after another: a folder and a row of the table each; to be interrupted and gone on with.

Each run is a process of its own, so that what one of them breaks, its memory included, ends with it.
"""

import json
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tqdm import tqdm

from diffbir_jax.console.errors import UserError
from diffbir_jax.training.grid import Overrides, run_name
from diffbir_jax.training.table import write_tables
from diffbir_jax.training.writers import EXPORT, LINES, read_lines

# What became of a run.
DONE, FAILED, STOPPED, WAITING = "done", "failed", "stopped", "waiting"


@dataclass(frozen=True)
class Run:
    """One combination of a grid.

    Attributes:
        overrides: settings by key.
        folder: its work folder.
    """

    overrides: Overrides
    folder: Path

    @property
    def record(self) -> dict[str, str]:
        """`state`, and of a failed run the `reason`, as the sweep noted them."""
        path = self.folder / "run.json"
        return json.loads(path.read_text("utf-8")) if path.exists() else {"state": WAITING}

    def note(self, state: str, reason: str = "") -> None:
        """Keep what became of the run."""
        record = {"state": state, "reason": reason, "overrides": self.overrides}
        (self.folder / "run.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")

    def row(self) -> dict[str, Any]:
        """Settings, state and validation metrics (those of the last line, and the best) of the run."""
        return {"overrides": self.overrides, **self.record, "lines": read_lines(self.folder / LINES)}


def make_runs(grid: Sequence[Overrides], workdir: Path, arguments: Sequence[str]) -> list[Run]:
    """Give every combination its folder in `workdir`.

    Args:
        grid: the combinations.
        workdir: of the sweep; made if it is not there.
        arguments: those of diffbir train that all runs share, kept in `workdir`/sweep.json.

    Raises:
        ValueError: `workdir` is of a sweep with other arguments.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / "sweep.json"
    if not path.exists():
        path.write_text(json.dumps(list(arguments)) + "\n", "utf-8")
    if (before := json.loads(path.read_text("utf-8"))) != list(arguments):
        raise UserError(
            f"{workdir} is of a sweep with the arguments {before}, given are {list(arguments)}: give a new --workdir"
        )
    return [Run(overrides, workdir / run_name(overrides)) for overrides in grid]


def sweep(runs: Sequence[Run], workdir: Path, command: Sequence[str]) -> None:
    """Do all runs that are not done, and keep `workdir`/results.csv and results.md up to date.

    Args:
        runs: see `make_runs`.
        workdir: of the tables.
        command: begins a run, followed by its --workdir and settings; it resumes what is in the folder.

    Raises:
        KeyboardInterrupt: SIGINT or SIGTERM came; the run has saved and stopped.
    """
    write_tables([run.row() for run in runs], workdir)
    for run in tqdm([run for run in runs if run.record["state"] != DONE], "sweep", unit="run"):
        tqdm.write(f"{run.folder.name}: its log is {run.folder / 'log.txt'}")
        try:
            _do(run, command)
        finally:
            write_tables([run.row() for run in runs], workdir)
        if run.record["state"] == FAILED:
            tqdm.write(f"{run.folder.name} failed: {run.record['reason']}")


def _do(run: Run, command: Sequence[str]) -> None:
    """Start a run, wait for its end, and note what became of it."""
    run.folder.mkdir(exist_ok=True)
    settings = [f"--config.{key}={value}" for key, value in run.overrides.items()]
    with (run.folder / "log.txt").open("ab") as log, _interruptible():
        begin = log.tell()
        process = subprocess.Popen(
            [*command, "--workdir", str(run.folder), *settings],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is passed on once, by us
        )
        try:
            process.wait()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            run.note(STOPPED)
            raise
    _judge(run, process.returncode, begin)


def _judge(run: Run, code: int, begin: int) -> None:
    """Note what became of a run that ended with `code`; its part of the log begins at byte `begin`."""
    text = (run.folder / "log.txt").read_bytes()[begin:].decode("utf-8", "replace")
    last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")
    if code < 0:
        run.note(FAILED, f"killed by {signal.Signals(-code).name}")
    elif code:
        run.note(FAILED, last)
    else:
        run.note(DONE if (run.folder / EXPORT).exists() else STOPPED)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM interrupt as SIGINT does."""

    def interrupt(signum: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
