"""What the train loop costs beside its steps: python -m benchmarks.loop [--steps 100] [--repeats 3]

The restoration module of preset `tiny` (`configs/rm_swinir.py:tiny`) on photos of scikit-image. The bare step repeats
the jitted step on one batch that lies on the devices. The loop makes its batches, logs every 20 steps and writes two
checkpoints; its wall time is taken between log lines, so that compiling and the last validation are left out. Both take
turns. Data are made on the same cores that compute here, so a second row leaves them out: every batch is the first.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image
from skimage import data

from configs.rm_swinir import get_config
from diffbir_jax.data.batches import Batches, HostBatch
from diffbir_jax.sharding import make_mesh, put_batch, replicated
from diffbir_jax.training import loop
from diffbir_jax.training.objective import Objective, make_objective
from diffbir_jax.training.writers import LINES, read_lines

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "retina", "immunohistochemistry", "cat")
LOG_EVERY, SKIPPED = 20, 20


class Repeated(Batches):
    """The first batch, always."""

    def __init__(self, batches: Batches):
        """Make it."""
        self._batch = batches(0)

    def __call__(self, step: int) -> HostBatch:
        """Return it."""
        return self._batch


def settings(folder: Path, steps: int) -> ConfigDict:
    """The configuration, for photos in `folder`."""
    config = get_config("tiny")
    config.data.source.path = str(folder)
    config.data.held_out_every = len(PHOTOS)
    config.train.update(steps=SKIPPED + steps, eval_every=10**9, log_every=LOG_EVERY)
    config.train.checkpoint_every = SKIPPED + steps // 2
    return config


def bare(config: ConfigDict) -> float:
    """Seconds of a step alone."""
    objective, mesh = make_objective(config), make_mesh(**config.mesh)
    state, step = loop.place(objective, mesh, config)
    frozen = jax.device_put(objective.frozen, replicated(mesh))
    batch = put_batch(objective.batches(0), mesh)
    for _ in range(SKIPPED):
        state, metrics = step(state, frozen, batch)
    jax.block_until_ready(state)
    begin, count = time.perf_counter(), config.train.steps - SKIPPED
    for _ in range(count):
        state, metrics = step(state, frozen, batch)
        float(metrics["loss"])
    return (time.perf_counter() - begin) / count


def looped(config: ConfigDict, make: Callable[[ConfigDict], Objective] = make_objective) -> float:
    """Seconds that the loop takes from step to step."""
    with tempfile.TemporaryDirectory() as workdir, patch.object(loop, "make_objective", make):
        loop.train(config, workdir)
        lines = [line for line in read_lines(Path(workdir) / LINES) if "train/loss" in line]
    first = next(line for line in lines if line["step"] == SKIPPED)
    return (lines[-1]["time"] - first["time"]) / (lines[-1]["step"] - SKIPPED)


def ready(config: ConfigDict) -> Objective:
    """The objective with batches that cost nothing."""
    objective = make_objective(config)
    return replace(objective, batches=Repeated(objective.batches))


def main() -> None:
    """Run all and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=100, help="steps timed at a time (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="turns (default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in PHOTOS:
            Image.fromarray(getattr(data, name)()).save(Path(folder) / f"{name}.png")
        config = settings(Path(folder), args.steps)
        kinds = {"bare step": bare, "loop, batches ready": lambda c: looped(c, ready), "loop": looped}
        turns = [{name: run(config) for name, run in kinds.items()} for _ in range(args.repeats)]
    times = {name: float(np.median([turn[name] for turn in turns])) for name in kinds}
    print("\n| | ms per step | over the bare step |\n|---|---|---|")
    for name, seconds in times.items():
        print(f"| {name} | {1e3 * seconds:.1f} | {100 * (seconds / times['bare step'] - 1):+.1f} % |")


if __name__ == "__main__":
    main()
