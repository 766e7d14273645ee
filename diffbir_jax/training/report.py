"""The output of a run: a progress bar, and the metrics and pictures that it passes to its writers."""

import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import jax
import numpy as np
from tqdm import tqdm

from diffbir_jax.console.meter import LINE, LOOK, duration
from diffbir_jax.training.speed import Stopwatch
from diffbir_jax.training.writers import Writer


class Report:
    """Progress bar (step time, images/s, ETA) and logs of one run; silent without writers."""

    def __init__(self, workdir: Path, first: int, total: int, clock: Stopwatch, writers: Sequence[Writer]):
        """Show a bar from step `first` to `total`; `writers` are closed with the report."""
        self._folder, self._writers, self._broken, self.clock = workdir, writers, 0, clock
        self._step, self._first, self._total = first, first, total
        self._beside = ""  # the bar, or the step in a line
        self._begin = self._line = time.perf_counter()
        self._bar = tqdm(
            total=total,
            initial=first,
            unit="step",
            dynamic_ncols=True,
            smoothing=0.05,
            disable=None if writers else True,  # None: on anything but a terminal
        )

    def __enter__(self) -> "Report":
        """Use the report as a context that closes itself."""
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close bar and logs."""
        self._bar.close()
        for writer in self._writers:
            writer.close()

    def advance(self) -> None:
        """Count one step."""
        self._bar.update()
        self._step += 1
        self.clock.step()
        now = time.perf_counter()
        if self._writers and self._bar.disable and now - self._line >= LINE:
            self._line = now
            left = (self._total - self._step) * (now - self._begin) / (self._step - self._first)
            told = [f"step {self._step} of {self._total}", self._beside, f"{duration(left)} left"]
            print(", ".join(filter(None, told)), file=sys.stderr, flush=True)

    def scalars(self, step: int, values: Mapping[str, float], prefix: str = "train") -> None:
        """Log scalars under `prefix`/name; training scalars also get the speed since the last log line."""
        if prefix == "train":
            values = {**values, **(speed := self.clock.read())}
            self._tell(f"loss {values['loss']:.4g}, {speed.get('images_per_second', 0):.1f} images/s")
        for writer in self._writers:
            writer.scalars(step, {f"{prefix}/{name}": value for name, value in values.items()})

    def _tell(self, text: str) -> None:
        """Show a text beside the bar, or in the next line."""
        self._beside = text
        self._bar.set_postfix_str(text)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if self._writers:
            tqdm.write(text)

    @contextmanager
    def doing(self, text: str) -> Iterator[None]:
        """Show `text` with the seconds while this context lasts: beside a bar on a terminal, in lines elsewhere."""
        over, begin = threading.Event(), time.perf_counter()
        terminal = sys.stderr.isatty()

        def show() -> None:
            said = f"{text}, {time.perf_counter() - begin:.0f} s"
            if terminal:
                self._bar.set_postfix_str(said)
            else:
                tqdm.write(said, file=sys.stderr)

        def watch() -> None:
            while not over.wait(LOOK if terminal else LINE):
                show()

        if not self._writers:
            yield
            return
        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self._bar.set_postfix_str(self._beside)
            # Its seconds are not those of steps.
            self._begin += time.perf_counter() - begin

    def broken(self, found: Mapping[int, str]) -> None:
        """Report newly broken examples; `workdir`/broken.txt lists all of them, one message per line.

        Each process reads other examples, so process k > 0 writes its own file, broken_k.txt.
        """
        if len(found) == self._broken:
            return
        messages = list(dict(found).values())  # a copy: a thread may be adding to them
        new, self._broken = messages[self._broken :], len(messages)
        name = f"broken_{index}.txt" if (index := jax.process_index()) else "broken.txt"
        (self._folder / name).write_text("".join(f"{message}\n" for message in messages), "utf-8")
        self.say(
            f"{len(messages)} broken examples were replaced so far, see broken.txt; new: {'; '.join(new[:3])}"
        )

    def grid(self, step: int, image: np.ndarray) -> None:
        """Log a (H, W, 3) uint8 picture."""
        for writer in self._writers:
            writer.grid(step, image)


def tile_grid(columns: list[np.ndarray]) -> np.ndarray:
    """Set columns of pictures side by side.

    Args:
        columns: each (B, H, W, 3) float in [0, 1]; a row per image, a column per entry.

    Returns:
        (B * H, columns * W, 3) uint8.
    """
    wide = np.concatenate([np.asarray(c, np.float32) for c in columns], axis=2)
    return np.rint(255 * np.clip(wide, 0, 1)).astype(np.uint8).reshape(-1, *wide.shape[2:])
