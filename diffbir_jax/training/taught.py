"""Batches with a teacher: some examples have its result (`scripts/make_teacher.py`), the rest are random crops."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffbir_jax.data.batches import Batches, HostBatch
from diffbir_jax.imaging.bytes import resize_bytes
from diffbir_jax.training.config import Config, optional
from diffbir_jax.training.sources import training_batches


def taught_batches(config: Config) -> tuple[Batches, Batches]:
    """Return training batches and batches of held-out crops; `hq`, `lq` and `teacher` (B, H, W, 3), `taught` (B,).

    Args:
        config: as for `training_batches`. With `data.teacher`, a folder, the share `data.taught` of each batch comes
            from the files in it.
    """
    train, held_out = training_batches(config)
    if not optional(config.data, "data.teacher"):
        return Untaught(train), held_out
    samples = load_samples(config.data.teacher)
    count = round(config.data.taught * config.data.batch_size)
    return Taught(train, samples, count, config.data.crop.size, config.seed), held_out


def load_samples(folder: str | Path) -> dict[str, np.ndarray]:
    """Read `hq`, `lq` and `teacher` of all .npz files in a folder into memory, in the order of their names.

    Raises:
        FileNotFoundError: there is no such file.
    """
    paths = sorted(Path(folder).expanduser().glob("*.npz"))
    if not paths:
        raise FileNotFoundError(
            f"no .npz file in {folder}: write them with scripts/make_teacher.py of the source code"
        )
    parts = [dict(np.load(path)) for path in paths]
    return {key: np.concatenate([part[key] for part in parts]) for key in ("hq", "lq", "teacher")}


@dataclass(frozen=True)
class Untaught(Batches):
    """Batches without a teacher: `taught` is 0, and the truth replaces the teacher's image."""

    batches: Batches

    def __call__(self, step: int) -> HostBatch:
        """Return batch `step`."""
        batch = self.batches(step)
        # A copy, because `Taught` writes into it.
        return batch | {"teacher": batch["hq"].copy(), "taught": np.zeros(len(batch["hq"]), np.float32)}

    @property
    def identity(self) -> dict[str, int | str]:
        """That of the batches."""
        return self.batches.identity


@dataclass(frozen=True)
class Taught(Batches):
    """Batches whose first examples are crops of a teacher's samples.

    Attributes:
        batches: source of the other examples.
        samples: `hq` and `teacher` (N, S, S, 3), `lq` (N, s, s, 3), uint8; S is a multiple of s.
        count: examples of a batch that come from the samples.
        size: side of a crop (pixels), a multiple of S / s.
        seed: seed of the sequence.
    """

    batches: Batches
    samples: dict[str, np.ndarray]
    count: int
    size: int
    seed: int

    def __call__(self, step: int) -> HostBatch:
        """Return batch `step`."""
        batch = Untaught(self.batches)(step)
        crops = [self._crop(np.random.default_rng((self.seed, step, i))) for i in range(self.count)]
        for i, crop in enumerate(crops):
            for key, value in crop.items():
                batch[key][i] = value
        return batch

    def _crop(self, rng: np.random.Generator) -> dict[str, np.ndarray | float]:
        """Return a random square of a sample, flipped and rotated; its input is enlarged as in restoration."""
        number = rng.integers(len(self.samples["lq"]))
        sample = {key: values[number] for key, values in self.samples.items()}
        factor = sample["hq"].shape[0] // sample["lq"].shape[0]
        # Drawn on the grid of the small input, so that the crops of input and truth match to the pixel.
        row, column = rng.integers(0, sample["lq"].shape[0] - self.size // factor + 1, 2)
        turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))

        def cut(image: np.ndarray, scale: int) -> np.ndarray:
            side = self.size * scale // factor
            part = image[row * scale :, column * scale :][:side, :side]
            return np.rot90(part[:, ::-1] if mirrored else part, turns)

        lq = resize_bytes(np.ascontiguousarray(cut(sample["lq"], 1)), (self.size, self.size))
        return {
            "hq": cut(sample["hq"], factor),
            "teacher": cut(sample["teacher"], factor),
            "lq": lq,
            "taught": 1.0,
        }

    @property
    def identity(self) -> dict[str, int | str]:
        """That of the batches, with the number of samples."""
        return self.batches.identity | {"samples": len(self.samples["lq"]), "taught": self.count}
