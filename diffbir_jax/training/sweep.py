"""A grid of training runs, one after another. Each run has a folder and a table row; a sweep can be resumed.

Each run is a separate process: a crash or leaked memory ends with it and does not harm the next run.
"""

import json
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from diffbir_jax.console.errors import UserError
from diffbir_jax.console.interrupts import terminable
from diffbir_jax.training.grid import Overrides, run_name
from diffbir_jax.training.table import Row, State, write_tables
from diffbir_jax.training.writers import EXPORT, LINES, read_lines

# States of a run.
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
    def record(self) -> State:
        """The run's `state` and, if it failed, the `reason`; read from run.json."""
        path = self.folder / "run.json"
        return json.loads(path.read_text("utf-8")) if path.exists() else {"state": WAITING}

    def note(self, state: str, reason: str = "") -> None:
        """Write the state of the run to run.json."""
        record = {"state": state, "reason": reason, "overrides": self.overrides}
        (self.folder / "run.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")

    def row(self) -> Row:
        """Return the settings, the state and the metric lines of the run, for `write_tables`."""
        return {"overrides": self.overrides, **self.record, "lines": read_lines(self.folder / LINES)}


def make_runs(grid: Sequence[Overrides], workdir: Path, arguments: Sequence[str]) -> list[Run]:
    """Give each combination its folder in `workdir`.

    Args:
        grid: the combinations.
        workdir: folder of the sweep; created if missing.
        arguments: arguments of diffbir train that all runs share, kept in `workdir`/sweep.json.

    Raises:
        ValueError: `workdir` belongs to a sweep with other arguments.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / "sweep.json"
    if not path.exists():
        path.write_text(json.dumps(list(arguments)) + "\n", "utf-8")
    # A resumed sweep with other arguments would mix runs that cannot be compared in one table.
    if (before := json.loads(path.read_text("utf-8"))) != list(arguments):
        raise UserError(
            f"{workdir} is of a sweep with the arguments {before}, given are {list(arguments)}: give a new --workdir"
        )
    return [Run(overrides, workdir / run_name(overrides)) for overrides in grid]


def sweep(runs: Sequence[Run], workdir: Path, command: Sequence[str]) -> None:
    """Run all runs that are not done yet, and keep `workdir`/results.csv and results.md up to date.

    Args:
        runs: see `make_runs`.
        workdir: folder of the tables.
        command: starts a run; --workdir and the run's settings are appended. It resumes a checkpoint in that folder.

    Raises:
        KeyboardInterrupt: SIGINT or SIGTERM arrived; the current run has saved and stopped.
    """
    write_tables([run.row() for run in runs], workdir)
    for run in tqdm([run for run in runs if run.record["state"] != DONE], "sweep", unit="run"):
        tqdm.write(f"{run.folder.name}: its log is {run.folder / 'log.txt'}")
        try:
            _do(run, command)
        finally:
            write_tables([run.row() for run in runs], workdir)
        if run.record["state"] == FAILED:
            tqdm.write(f"{run.folder.name} failed: {run.record.get('reason')}")


def _do(run: Run, command: Sequence[str]) -> None:
    """Start a run, wait for its end, and note its state."""
    run.folder.mkdir(exist_ok=True)
    settings = [f"--config.{key}={value}" for key, value in run.overrides.items()]
    with (run.folder / "log.txt").open("ab") as log, terminable():
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
            # SIGTERM makes train.py save a checkpoint, so the next sweep resumes this run.
            process.terminate()
            process.wait()
            run.note(STOPPED)
            raise
    _judge(run, process.returncode, begin)


def _judge(run: Run, code: int, begin: int) -> None:
    """Note the state of a run that ended with `code`; its part of the log begins at byte `begin`."""
    text = (run.folder / "log.txt").read_bytes()[begin:].decode("utf-8", "replace")
    last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")
    if code < 0:
        run.note(FAILED, f"killed by {signal.Signals(-code).name}")
    elif code:
        run.note(FAILED, last)
    else:
        # train.py exits with 0 also when it was stopped. Only a finished run has exported weights.
        run.note(DONE if (run.folder / EXPORT).exists() else STOPPED)
