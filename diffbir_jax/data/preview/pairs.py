"""A picture of pairs of target and input, their random parameters, and the time that they take."""

import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ParamSpec, TypeVar

import cv2
import numpy as np
from tqdm import tqdm

from diffbir_jax.data.degradation import Degraded
from diffbir_jax.data.example import Example, Source
from diffbir_jax.data.items import Item, Items
from diffbir_jax.data.loader import Loader
from diffbir_jax.imaging.writing import write_png

P = ParamSpec("P")
R = TypeVar("R")
MARGIN = 4  # pixels between pairs


@dataclass
class Watch:
    """Seconds by stage, and the last result of each stage."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    last: dict[str, object] = field(default_factory=dict)

    def over(self, stage: str, function: Callable[P, R]) -> Callable[P, R]:
        """`function`, timed as `stage`."""

        def timed(*args: P.args, **more: P.kwargs) -> R:
            begin = time.perf_counter()
            self.last[stage] = result = function(*args, **more)
            self.seconds[stage] += time.perf_counter() - begin
            return result

        return timed

    def items(self, items: Items) -> Items:
        """Return `items` with each stage timed."""
        return replace(
            items,
            source=_Watched(items.source, self.over("read", items.source.__getitem__)),
            crop=self.over("crop", items.crop),
            degrade=items.degrade and self.over("degrade", items.degrade),
        )

    def stages(self) -> dict[str, float]:
        """Return seconds by stage. The rest of "all" is decoding (`Decoded` sources do it in "read") and rounding."""
        known = {stage: self.seconds[stage] for stage in ("read", "crop", "degrade")}
        return known | {"decode, round": self.seconds["all"] - sum(known.values())}


@dataclass(frozen=True)
class _Watched:
    source: Source
    get: Callable[[int], Example]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        return self.get(index)

    @property
    def fingerprint(self) -> str:
        return self.source.fingerprint


def grid(items: list[Item]) -> np.ndarray:
    """Arrange pairs, target left and input right, about as wide as high.

    Args:
        items: each with `hq` and, with a degradation, `lq` (S, S, 3), uint8 or float32 in [0, 1].

    Returns:
        (H, W, 3) uint8, each pair with its number.
    """
    cells = [_cell(number, item) for number, item in enumerate(items)]
    height, width = cells[0].shape[:2]
    columns = max(1, round(np.sqrt(len(cells) * height / width)))
    rows = -(-len(cells) // columns)
    canvas = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        canvas[row * height : (row + 1) * height, column * width : (column + 1) * width] = cell
    return canvas


def _cell(number: int, item: Item) -> np.ndarray:
    pair = np.concatenate([item[name] for name in ("hq", "lq") if name in item], axis=1)
    pair = pair if pair.dtype == np.uint8 else np.rint(255 * pair).astype(np.uint8)
    pair = np.pad(pair, ((0, MARGIN), (0, MARGIN), (0, 0)), constant_values=255)
    for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):  # legible on any ground
        cv2.putText(pair, str(number), (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, thickness, cv2.LINE_AA)
    return pair


def describe(number: int, item: Item, watch: Watch) -> str:
    """Describe an example's random parameters in a few lines of text."""
    example, degraded = watch.last["read"], watch.last.get("degrade")
    assert isinstance(example, Example)
    lines = [f"{number}: {example.name}"]
    lines += [f"   in place of {message}" for _, message in item["broken"]]
    if "prompt" in item:
        lines.append(f"   prompt {item['prompt']!r}")
    if isinstance(degraded, Degraded):
        drawn = degraded.record.items()
        lines.append("   " + ", ".join(f"{name} {_short(value)}" for name, value in drawn))
    return "\n".join(lines)


def _short(value: float | str) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def show(items: Items, first: int, number: int, out: Path) -> None:
    """Write a picture of `number` examples, starting at position `first`, and print their random parameters."""
    watch, made = Watch(), []
    watched = watch.items(items)
    for i in range(number):
        made.append(watched(first + i))
        print(describe(i, made[-1], watch), flush=True)
    write_png(out, grid(made))
    print(f"{out}: {number} pairs, target left and input right")


def time_stages(items: Items, number: int) -> None:
    """Print the time per stage of `number` examples, made one by one."""
    watch = Watch()
    make = watch.over("all", watch.items(items))
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # as in workers
    try:
        for position in tqdm(range(number), "one by one", unit="image", leave=False):
            make(position)
    finally:
        cv2.setNumThreads(threads)
    for stage, seconds in watch.stages().items():
        print(f"{stage:>16} {1e3 * seconds / number:8.1f} ms per image")
    print(f"{'all':>16} {1e3 * watch.seconds['all'] / number:8.1f} ms per image on one core")


def time_loader(loader: Loader, number: int) -> None:
    """Print the loader's images per second, after its first batch."""
    batches = max(1, -(-number // loader.batch_size))
    with closing(loader.iterate(0, batches + 1)) as stream:
        next(stream)  # starting workers takes seconds
        begin = time.perf_counter()
        for _ in tqdm(stream, "loader", total=batches, unit="batch", leave=False):
            pass
    rate = batches * loader.batch_size / (time.perf_counter() - begin)
    how = f"{loader.workers} workers of" if loader.workers else "no workers,"
    print(f"{'loader':>16} {rate:8.1f} images per second ({how} {loader.threads} threads)")
