"""What the train loop costs beside its steps: python -m benchmarks.loop [--steps 100] [--repeats 3]

Four runs on photos of scikit-image: SwinIR at its full size on four crops of 128 pixels, and of preset `tiny` its
restoration module (`configs/rm_swinir.py:tiny`), stage 2 from images and stage 2 from crops that were encoded once
(`configs/bsr.py:tiny`, without and with `data.cache`). The bare step repeats the jitted step on one batch that lies on
the devices. The loop makes its batches, logs every 20 steps and writes two checkpoints; its wall time is taken between
log lines, so that compiling and the last validation are left out. Images are made on the same cores that compute here,
so a column leaves that out: every batch is the first. All take turns: what the loop costs is the median of the turns'
ratios, with the smallest and the largest of them in brackets, which tell how quiet the machine was.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
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
from diffbir_jax.training.writers import LINES, read_lines

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "retina", "immunohistochemistry", "cat")
LOG_EVERY, SKIPPED = 20, 20
ENCODED = "tiny stage 2, encoded once"


class Repeated(Batches):
    """The first batch, always."""

    def __init__(self, batches: Batches):
        """Make it."""
        self._batch = batches(0)

    def __call__(self, step: int) -> HostBatch:
        """Return it."""
        return self._batch


def settings(folder: Path, steps: int) -> dict[str, ConfigDict]:
    """The configurations by title, for photos in `folder`."""
    runs = {"SwinIR": rm_swinir, "tiny stage 1": rm_swinir, "tiny stage 2": bsr, ENCODED: bsr}
    configs = {title: module.get_config("tiny") for title, module in runs.items()}
    configs["SwinIR"].preset, configs["SwinIR"].data.batch_size = "v1", 4
    configs["SwinIR"].data.crop.size = 128
    configs[ENCODED].data.update(cache=str(folder / "latents.npz"), pool=256)
    for config in configs.values():
        config.data.source.path = str(folder)
        config.data.held_out_every = len(PHOTOS)
        config.train.update(steps=SKIPPED + steps, eval_every=10**9, log_every=LOG_EVERY)
        config.train.checkpoint_every = SKIPPED + steps // 2
    return configs


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
    parser.add_argument("--runs", nargs="+", help="titles of rows (default: all)")
    parser.add_argument("--repeats", type=int, default=3, help="turns (default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update(
            "jax_compilation_cache_dir", str(Path(folder) / "programs")
        )  # later turns begin at once
        photos = Path(folder) / "photos"
        photos.mkdir()
        for name in PHOTOS:
            Image.fromarray(getattr(data, name)()).save(photos / f"{name}.png")
        configs = settings(photos, args.steps)
        configs = {title: configs[title] for title in args.runs or configs}
        turns = [
            {(title, how): timed(title, how, config) for title, config in configs.items() for how in WAYS}
            for _ in range(args.repeats)
        ]
    print(f"\n| | {' | '.join(WAYS)} |\n|---|{'---|' * len(WAYS)}")
    for title in configs:
        print(f"| {title} | {' | '.join(cells(turns, title))} |")


def timed(title: str, how: str, config: ConfigDict) -> float:
    """Seconds of a step, which are said."""
    seconds = WAYS[how](config)
    print(f"{title}, {how}: {1e3 * seconds:.1f} ms", flush=True)
    return seconds


def cells(turns: Sequence[dict[tuple[str, str], float]], title: str) -> Iterator[str]:
    """Milliseconds of a step, the median of the turns, and how much more than the bare step's."""
    for how in WAYS:
        milliseconds = 1e3 * float(np.median([turn[title, how] for turn in turns]))
        more = [100 * (turn[title, how] / turn[title, BARE] - 1) for turn in turns]
        spread = f", {np.median(more):+.1f} % ({min(more):+.1f} to {max(more):+.1f})"
        yield f"{milliseconds:.0f} ms{'' if how == BARE else spread}"


BARE = "bare step"
WAYS: dict[str, Callable[[ConfigDict], float]] = {
    BARE: bare,
    "loop, batches ready": lambda config: looped(config, ready),
    "loop": looped,
}


if __name__ == "__main__":
    main()
