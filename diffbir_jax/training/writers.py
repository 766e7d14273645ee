"""Writers for the metrics and pictures of a run: TensorBoard, lines of JSON, Weights & Biases."""

import importlib
import json
import math
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter

from diffbir_jax.console.errors import UserError
from diffbir_jax.training.page import Page

# Names in the work folder of a run: its metrics, and the folder of weights, which exists only after the last step.
LINES, EXPORT = "metrics.jsonl", "export"
# Key of a line of metrics.jsonl: later steps before it are repeated after it.
RESUMED = "resumed"
# Numbers by name, None for one that was not finite; the step is a whole number.
Line = dict[str, Any]


class Writer(Protocol):
    """The interface of all writers."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write metrics of `step` under names such as "train/loss"."""
        ...

    def grid(self, step: int, image: np.ndarray) -> None:
        """Write a picture (H, W, 3) uint8."""
        ...

    def close(self) -> None:
        """Finish."""
        ...


class TensorBoard:
    """Event files in `workdir`/tensorboard."""

    def __init__(self, workdir: Path, first: int):
        """Begin after step `first`; events of later steps, which the run repeats, are hidden."""
        self._writer = SummaryWriter(str(workdir / "tensorboard"), purge_step=first + 1 if first else None)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to the curve of each metric."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        # tensorboardX buffers events for two minutes; curves should be live, and complete after a crash.
        self._writer.flush()

    def grid(self, step: int, image: np.ndarray) -> None:
        """Write it under "validation"."""
        self._writer.add_image("validation", image, step, dataformats="HWC")

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class JsonLines:
    """`workdir`/metrics.jsonl, a JSON object per line, and the newest picture as `workdir`/grid.png."""

    def __init__(self, workdir: Path, first: int):
        """Begin after step `first`. A line says so where there are lines of later steps, which the run repeats."""
        self._picture, self._path = workdir / "grid.png", workdir / LINES
        before = read_lines(self._path)
        torn = (
            self._path.exists()
            and self._path.stat().st_size > 0
            and not self._path.read_bytes().endswith(b"\n")
        )
        self._write("\n" if torn else "")
        if any(line["step"] > first for line in before):
            self._line({RESUMED: first})

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write a line: `step`, `time` (seconds since 1970) and the values; null if a value is not finite."""
        # JSON has no NaN and no infinity.
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._line({"step": step, "time": round(time.time(), 3)} | finite)

    def _line(self, values: Mapping[str, object]) -> None:
        self._write(json.dumps(values) + "\n")

    def _write(self, text: str) -> None:
        # Opened each time: into a file that was deleted meanwhile, lines would go unnoticed.
        with self._path.open("a", encoding="utf-8") as file:
            file.write(text)

    def grid(self, step: int, image: np.ndarray) -> None:
        """Write the picture over the previous one."""
        Image.fromarray(image).save(self._picture)

    def close(self) -> None:
        """Do nothing: the file is closed after each line."""


class WandB:
    """A run of Weights & Biases; a resumed run continues the same one."""

    def __init__(self, workdir: Path, project: str):
        """Start the run, or continue the one whose identity is in `workdir`/wandb.txt.

        Raises:
            ValueError: wandb is not installed.
        """
        try:
            # Imported late: wandb is an optional dependency, and starting it takes seconds.
            self._wandb = importlib.import_module("wandb")
        except ImportError as error:
            raise UserError(
                f"config.train.wandb is {project!r}, but wandb is not installed: pip install wandb, or set it to None"
            ) from error
        path = workdir / "wandb.txt"
        if not path.exists():
            path.write_text(uuid.uuid4().hex[:8], "utf-8")
        identity = path.read_text("utf-8").strip()
        self._run = self._wandb.init(project=project, id=identity, resume="allow", dir=str(workdir))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values."""
        self._run.log(dict(values), step=step)

    def grid(self, step: int, image: np.ndarray) -> None:
        """Log it under "validation"."""
        self._run.log({"validation": self._wandb.Image(image)}, step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def open_writers(workdir: Path, first: int, total: int, project: str | None = None) -> list[Writer]:
    """Open the writers of a run from step `first` to `total`: TensorBoard, JSON lines, a page and, if asked for, wandb.

    Raises:
        ValueError: wandb is asked for and not installed.
    """
    writers: list[Writer] = [WandB(workdir, project)] if project else []
    page = Page(workdir, first, total, read_lines(workdir / LINES))
    return [TensorBoard(workdir, first), JsonLines(workdir, first), page, *writers]


def read_lines(path: Path, say: Callable[[str], object] | None = None) -> list[Line]:
    """Read a metrics.jsonl; [] if it does not exist.

    Lines that a killed run left incomplete are ignored, and so are those that a resumed run repeats.

    Args:
        path: the file.
        say: is told, in one line, about lines that no run writes; they are passed over.

    Raises:
        UserError: it is no file.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is no file, but the metrics of the run belong there; move it elsewhere")
    lines: list[Line] = []
    damaged: list[int] = []
    for number, text in enumerate(path.read_text("utf-8", "replace").split("\n") if path.exists() else (), 1):
        line = _parsed(text)
        if line is None:
            continue
        if not _is_line(line):
            damaged.append(number)
        elif RESUMED in line:
            lines = [each for each in lines if each["step"] <= line[RESUMED]]
        else:
            lines.append(line)
    if damaged and say:
        say(f"{path}: passed over {len(damaged)} damaged line(s), the first is line {damaged[0]}")
    return lines


def _parsed(text: str) -> Line | None:
    """What a line of JSON holds; None for a line that is cut off."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_line(line: object) -> bool:
    """Whether a run writes such a line: numbers by name, and a step or `RESUMED` that is a whole number."""
    if not isinstance(line, dict) or not all(_is_number(value) for value in line.values()):
        return False
    return type(line.get(RESUMED, line.get("step"))) is int


def _is_number(value: object) -> bool:
    return value is None or type(value) in (int, float)
