"""Trainings that something happens to at an operation on their files, and that are run again.

    python -m tests.robustness.kills EVENT POINT...

EVENT is a name in `EVENTS`. A line of JSON is printed for each point: the exit status of the first run, what it said,
and whether the second one ends as a run without a break. The process forks a child for each training before it
computes anything: JAX survives no fork.
"""

import errno
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from diffbir_jax.cli.main import start
from diffbir_jax.console import configurations
from diffbir_jax.data.batches import Batches
from diffbir_jax.training import loop
from diffbir_jax.training.objective import Objective
from diffbir_jax.training.writers import read_lines
from tests.robustness.operations import alone, happening
from tests.training.micro import make_photos, micro_config

SAID = Path("said.txt")


def fail(number: int) -> Callable[[], None]:
    def happen() -> None:
        raise OSError(number, os.strerror(number), "out/file")

    return happen


EVENTS: dict[str, Callable[[], None]] = {
    "nothing": lambda: None,
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "SIGINT": lambda: os.kill(os.getpid(), signal.SIGINT),
    "SIGTERM": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "full": fail(errno.ENOSPC),
    "read-only": fail(errno.EROFS),
    "broken": fail(errno.EIO),
    "vanished": lambda: shutil.rmtree("out", ignore_errors=True),
    "no reader": lambda: None,
    "full output": lambda: None,
}


def lost_reader() -> int:
    """The end of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


# Events of the whole run: where its output goes.
OUTPUTS = {"no reader": lost_reader, "full output": lambda: os.open("/dev/full", os.O_WRONLY)}


class Steps(Batches):
    def __call__(self, step: int) -> dict[str, np.ndarray]:
        return {"x": np.full(4, np.sin(step), np.float32)}


def objective(_: object) -> Objective:
    """Of three numbers; its validation rises and falls with them."""

    def loss(params, frozen, batch, key):  # noqa: ANN001, ANN202
        return jnp.mean(jnp.square(params["w"] - batch["x"][0] + jax.random.normal(key, (3,)))), {}

    def validate(params, frozen):  # noqa: ANN001, ANN202
        return {"psnr": float(np.sin(1e3 * np.asarray(params["w"])[0]))}, np.zeros((8, 8, 3), np.uint8)

    return Objective({"w": jnp.ones(3)}, {}, loss, Steps(), validate, lambda ema: {"w": ema})


def config(*_: object) -> ConfigDict:
    config = micro_config("rm")
    config.preset = "tiny"
    config.train.update(steps=6, checkpoint_every=1, eval_every=2, keep=2, lr=0.01, keep_best="psnr:max")
    return config


def train(number: int, event: str) -> tuple[int, bool]:
    """Exit status of a training in a child, and whether it came to the operation."""
    mark = Path("mark")
    mark.unlink(missing_ok=True)

    def marked() -> None:
        mark.touch()
        EVENTS[event]()

    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), mark.exists()
    alone()
    code = 99
    try:
        os.dup2(os.open(SAID, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        os.dup2(OUTPUTS[event]() if event in OUTPUTS else 2, 1)
        with happening("out", number, marked):
            start("train", ["--config", "bsr:tiny", "--workdir", "out"])
    except SystemExit as end:
        code = end.code or 0
        if isinstance(code, str):
            os.write(2, code.encode())
            code = 1
    finally:
        sys.stderr.flush()
        os._exit(code)


def values() -> dict[str, float]:
    """What metrics.jsonl tells of each step, but for times; of a step that was done again, the last."""
    found = {}
    for line in read_lines(Path("out/metrics.jsonl")):
        kept = ("train/loss", "train/grad_norm", "validation/psnr")
        found |= {f"{line['step']} {key}": line[key] for key in kept if key in line}
    return found


def state() -> dict[str, Any]:
    """What a run leaves."""
    best = {path.name for path in Path("out/best").iterdir()}
    left = {path.name for path in Path("out/checkpoints").iterdir()}
    weights = Path("out/export/w.safetensors").read_bytes().hex()
    return {"best": sorted(best), "left": sorted(left), "weights": weights, "values": values()}


def different(whole: dict[str, Any], lost: bool) -> list[str]:
    """What differs from a run without a break; what was written before the folder was lost may be missing."""
    found = state()
    if lost:
        # A thread may write a checkpoint while the folder is removed: the run goes on, its first lines are lost.
        found["values"] = whole["values"] | found["values"]
    return [key for key, value in found.items() if value != whole[key]]


def main(event: str, points: list[int]) -> None:
    loop.make_objective = objective
    configurations.read = config
    if not Path("photos").exists():
        make_photos(Path())
    shutil.rmtree("out", ignore_errors=True)
    assert train(0, "nothing")[0] == 0, SAID.read_text()
    whole = state()
    for point in points:
        shutil.rmtree("out")
        code, happened = train(point, event)
        said = SAID.read_text()
        again, _ = train(0, "nothing")
        differs = different(whole, lost=event == "vanished") if again == 0 else ["failed"]
        row = {"point": point, "happened": happened, "code": code, "differs": differs, "said": said[-300:]}
        print(json.dumps(row | ({"again": SAID.read_text()[-600:]} if differs else {})), flush=True)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main(sys.argv[1], [int(point) for point in sys.argv[2:]])
