"""Where the numbers and pictures of a run go: TensorBoard, lines of JSON, Weights & Biases."""

import importlib
import json
import math
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter

from diffbir_jax.console.errors import UserError

# In the work folder of a run: its numbers, and the weights, which are there only once the last step is done.
LINES, EXPORT = "metrics.jsonl", "export"


class Writer(Protocol):
    """What a run is written with."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers of `step`, by names as "train/loss"."""
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
        """Begin after step `first`: what an earlier run wrote of later steps is hidden."""
        self._writer = SummaryWriter(str(workdir / "tensorboard"), purge_step=first + 1 if first else None)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write a curve point each."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
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
        """Begin after step `first`: lines of later steps, which are done again, are dropped."""
        self._picture, path = workdir / "grid.png", workdir / LINES
        kept = [line for line in read_lines(path) if line["step"] <= first]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept), "utf-8")
        self._file = path.open("a", encoding="utf-8")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write a line: `step`, `time` (seconds since 1970) and the values, null for those that are not finite."""
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        print(json.dumps({"step": step, "time": round(time.time(), 3)} | finite), file=self._file, flush=True)

    def grid(self, step: int, image: np.ndarray) -> None:
        """Write it, over the one before."""
        Image.fromarray(image).save(self._picture)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class WandB:
    """A run of Weights & Biases, the same one after a resumption."""

    def __init__(self, workdir: Path, project: str):
        """Begin, or go on with, the run whose identity `workdir`/wandb.txt holds.

        Raises:
            ValueError: wandb is not installed.
        """
        try:
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


def open_writers(workdir: Path, first: int, project: str | None = None) -> list[Writer]:
    """Open TensorBoard and lines in `workdir` for a run that begins after step `first`, and wandb for a `project`.

    Raises:
        ValueError: wandb is asked for and not installed.
    """
    writers: list[Writer] = [WandB(workdir, project)] if project else []
    return [TensorBoard(workdir, first), JsonLines(workdir, first), *writers]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a metrics.jsonl, [] if there is none; a last line that a killed run left cut off is not counted."""
    if not path.exists():
        return []
    lines = path.read_text("utf-8").split("\n")[:-1]  # what follows the last line's end is empty, or cut off
    return [json.loads(line) for line in lines]
