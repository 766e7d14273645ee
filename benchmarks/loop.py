"""What the train loop costs beside its steps: python -m benchmarks.loop [--windows 7] [--runs TITLE ...]

Four runs on photos of scikit-image: SwinIR at its full size on a crop of 128 pixels, and of preset `tiny` its
restoration module (`configs/rm_swinir.py:tiny`), stage 2 from images and stage 2 from crops that were encoded once
(`configs/bsr.py:tiny`, without and with `data.cache`). Images are made on the same cores that compute here, so a column
leaves that out: every batch is the first.

Loop and bare step take turns within a run, as machines are not equally fast for minutes: after 20 timed steps of the
loop it is held, and the same program takes 20 steps of its own on one batch that lies on the devices. Meanwhile its
threads make no more than what fills its queues, which are full most of the time anyway; the 5 steps after that do not
count. A turn has a log line at its end, and the fourth one a checkpoint. What the loop costs is the median of the
turns' ratios, of wall time and of the processor's time in all threads; smallest and largest are in brackets. The
latter is what the step would take longer were no core ever idle.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image
from skimage import data

from configs import bsr, rm_swinir
from diffbir_jax.data.batches import Batches, HostBatch
from diffbir_jax.sharding import make_mesh, put_batch, replicated
from diffbir_jax.training import loop
from diffbir_jax.training.objective import Objective, make_objective
from diffbir_jax.training.run import Run
from diffbir_jax.training.state import TrainState

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "retina", "immunohistochemistry", "cat")
TURN, UNTIMED = 20, 5  # steps
CYCLE = UNTIMED + TURN
SAVED = 90  # the step with a checkpoint, in the middle of a turn: of steps 76 to 100 the last 20 count
ENCODED = "tiny stage 2, encoded once"


class Repeated(Batches):
    """The first batch, always."""

    def __init__(self, batches: Batches):
        """Make it."""
        self._batch = batches(0)

    def __call__(self, step: int) -> HostBatch:
        """Return it."""
        return self._batch


class Bare:
    """The jitted step alone."""

    def __init__(self, config: Any, objective: Objective):
        """Place the state and a batch."""
        mesh = make_mesh(**config.mesh)
        self._state, self._step = loop.place(objective, mesh, config)
        self._frozen = jax.device_put(objective.frozen, replicated(mesh))
        self._batch = put_batch(objective.batches(0), mesh)
        self()  # compiles

    def __call__(self) -> np.ndarray:
        """What `clocks` advance by in a turn."""
        begin, pending = clocks(), None
        for _ in range(TURN):
            self._state, metrics = self._step(self._state, self._frozen, self._batch)
            # As in the loop, one step waits while another one is worked on.
            jax.block_until_ready(pending)
            pending = metrics
        jax.block_until_ready(pending)
        return clocks() - begin


def clocks() -> np.ndarray:
    """Seconds of wall time, and of the processor's time in this process."""
    return np.array([time.perf_counter(), time.process_time()])


@dataclass
class Turns:
    """Holds the loop after each of its turns, and lets the bare step take one."""

    bare: Bare
    looped: list[np.ndarray] = field(default_factory=list)
    alone: list[np.ndarray] = field(default_factory=list)
    _begin: np.ndarray = field(default_factory=clocks)

    def after(self, wrapped: Callable[..., None]) -> Callable[..., None]:
        """`Run.after`, with that."""

        def timed(run: Run, step: int, state: TrainState, metrics: Any, stopped: bool) -> None:
            wrapped(run, step, state, metrics, stopped)
            if step % CYCLE == UNTIMED:
                jax.block_until_ready(metrics)
                self._begin = clocks()
            elif step % CYCLE == 0:
                jax.block_until_ready(metrics)
                self.looped.append(clocks() - self._begin)
                self.alone.append(self.bare())

        return timed


def settings(folder: Path, windows: int) -> dict[str, ConfigDict]:
    """The configurations by title, for photos in `folder`."""
    runs = {"SwinIR": rm_swinir, "tiny stage 1": rm_swinir, "tiny stage 2": bsr, ENCODED: bsr}
    configs = {title: module.get_config("tiny") for title, module in runs.items()}
    configs["SwinIR"].preset, configs["SwinIR"].data.batch_size = "v1", 1
    configs["SwinIR"].data.crop.size = 128
    configs[ENCODED].data.update(cache=str(folder / "latents.npz"), pool=256)
    for config in configs.values():
        config.data.source.path = str(folder)
        config.data.update(held_out_every=len(PHOTOS), validation_size=8)
        # One more, so that the last checkpoint and validation lie behind what is timed.
        config.train.update(steps=CYCLE * windows + 1, eval_every=10**9, log_every=CYCLE)
        config.train.checkpoint_every = SAVED
    return configs


def measure(config: Any, make: Callable[[Any], Objective]) -> Turns:
    """Turns of the loop and of the bare step."""
    turns = Turns(Bare(config, make_objective(config)))
    after, workdir = turns.after(Run.after), tempfile.TemporaryDirectory()
    with workdir, patch.object(Run, "after", after), patch.object(loop, "make_objective", make):
        loop.train(config, workdir.name)
    return turns


def ready(config: Any) -> Objective:
    """The objective with batches that cost nothing."""
    objective = make_objective(config)
    return replace(objective, batches=Repeated(objective.batches))


WAYS = {"loop, batches ready": ready, "loop": make_objective}


def row(title: str, config: Any) -> str:
    """A row of the table."""
    found = [measure(config, make) for make in WAYS.values()]
    bare = np.median([turn[0] / TURN for turns in found for turn in turns.alone])
    return (
        f"| {title} | {1e3 * bare:.0f} ms | {' | '.join(cell for turns in found for cell in more(turns))} |"
    )


def more(turns: Turns) -> Iterator[str]:
    """How much more than the bare step's the loop's times are."""
    for percent in 100 * (np.array(turns.looped) / np.array(turns.alone) - 1).T:
        yield f"{np.median(percent):+.1f} % ({percent.min():+.1f} to {percent.max():+.1f})"


def rows(configs: dict[str, ConfigDict]) -> Iterator[str]:
    """The table."""
    yield f"| | bare step | {' | '.join(f'{way} | its processor time' for way in WAYS)} |"
    yield f"|---|---|{'---|---|' * len(WAYS)}"
    for title, config in configs.items():
        yield row(title, config)


def main() -> None:
    """Run all and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--windows", type=int, default=7, help="turns of each (default: %(default)s)")
    parser.add_argument("--runs", nargs="+", help="titles of rows (default: all)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as programs:
        jax.config.update("jax_compilation_cache_dir", programs)  # the loop's program is the bare step's
        for name in PHOTOS:
            Image.fromarray(getattr(data, name)()).save(Path(folder) / f"{name}.png")
        configs = settings(Path(folder), args.windows)
        lines = list(rows({title: configs[title] for title in args.runs or configs}))
    print("\n".join(["", *lines]))


if __name__ == "__main__":
    main()
