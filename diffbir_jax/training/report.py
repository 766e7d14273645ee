"""What a run shows: a progress bar, TensorBoard scalars and picture grids, and the line that ends it."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter
from tqdm import tqdm


class Report:
    """Progress bar (step time, images/s, ETA) and TensorBoard log of one run."""

    def __init__(self, workdir: Path, first: int, total: int, batch_size: int):
        """Open the log in `workdir`/tensorboard and a bar from step `first` to `total`."""
        self._folder, self._batch, self._broken = workdir, batch_size, 0
        self._writer = SummaryWriter(str(workdir / "tensorboard"))
        self._bar = tqdm(total=total, initial=first, unit="step", dynamic_ncols=True, smoothing=0.05)

    def __enter__(self) -> "Report":
        """Use the report as a context that closes itself."""
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close bar and log."""
        self._bar.close()
        self._writer.close()

    def advance(self) -> None:
        """Count one step."""
        self._bar.update()

    def scalars(self, step: int, values: dict[str, float], prefix: str = "train") -> None:
        """Log scalars under `prefix`/name and show loss and speed in the bar."""
        rate = self._bar.format_dict["rate"]
        if prefix == "train" and rate:
            values = values | {"step_seconds": 1 / rate, "images_per_second": self._batch * rate}
            self._bar.set_postfix_str(f"loss {values['loss']:.4g}, {self._batch * rate:.1f} images/s")
        for name, value in values.items():
            self._writer.add_scalar(f"{prefix}/{name}", value, step)
        self._writer.flush()

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        tqdm.write(text)

    def broken(self, found: Mapping[int, str]) -> None:
        """Say so if more examples are broken than before; `workdir`/broken.txt names all, a message per line."""
        if len(found) == self._broken:
            return
        messages = list(dict(found).values())  # a copy: a thread may be adding to them
        new, self._broken = messages[self._broken :], len(messages)
        (self._folder / "broken.txt").write_text("".join(f"{message}\n" for message in messages), "utf-8")
        self.say(
            f"{len(messages)} broken examples were replaced so far, see broken.txt; new: {'; '.join(new[:3])}"
        )

    def grid(self, step: int, image: np.ndarray) -> None:
        """Log a (H, W, 3) uint8 picture and keep the newest as `workdir`/grid.png."""
        self._writer.add_image("validation", image, step, dataformats="HWC")
        Image.fromarray(image).save(self._folder / "grid.png")


def tile_grid(columns: list[np.ndarray]) -> np.ndarray:
    """Set columns of pictures side by side.

    Args:
        columns: each (B, H, W, 3) float in [0, 1]; a row per image, a column per entry.

    Returns:
        (B * H, columns * W, 3) uint8.
    """
    wide = np.concatenate([np.asarray(c, np.float32) for c in columns], axis=2)
    return np.rint(255 * np.clip(wide, 0, 1)).astype(np.uint8).reshape(-1, *wide.shape[2:])
