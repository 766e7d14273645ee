"""Random crops of a folder of photos, each a pure function of (seed, step, index).

No state is kept between steps. So a run's data position is its step number, and a resumed run sees the same crops.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from diffbir_jax.data.batches import Batches
from diffbir_jax.data.crops import augment, scaled
from diffbir_jax.data.degradation import Degradation
from diffbir_jax.imaging.bytes import resize_bytes, to_depth
from diffbir_jax.imaging.reading import read_image

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


@dataclass(frozen=True)
class CropConfig:
    """The settings of a training crop.

    Attributes:
        size: side of the crop (pixels).
        scale: range of the factor that resizes a photo before cropping (1: unchanged), drawn log-uniformly.
        candidates: number of crops to draw; the most detailed one is kept, because sky and blur teach little.
        gray: share of crops whose colours are replaced by their luma.
    """

    size: int = 96
    scale: tuple[float, float] = (0.3, 1.0)
    candidates: int = 2
    gray: float = 0.0


def load_photos(folder: str | Path) -> list[np.ndarray]:
    """Decode every photo of `folder` into memory, in name order, as (H, W, 3) uint8 RGB arrays.

    They are read like inputs (`imaging.reading.read_image`): upright, transparency over white, 16 bits rounded to 8.

    Raises:
        FileNotFoundError: if the folder holds no photo.
        ImageFileError: if a file cannot be decoded, or a side is below 16 pixels.
    """
    paths = sorted(p for p in Path(folder).expanduser().glob("*") if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise FileNotFoundError(
            f"no photo ({', '.join(sorted(SUFFIXES))}) in {folder!s}: give a folder with photos by "
            "--photos DIR (or --config.data.folder=DIR), or build the training set with "
            "scripts/build_photos.py of the source code"
        )
    # Decoding releases Python's lock, so threads use all cores.
    with ThreadPoolExecutor() as pool:
        return list(pool.map(read_image, paths))


def detail(image: np.ndarray) -> float:
    """Mean magnitude of the Laplacian of the green channel of (H, W, 3) uint8."""
    return float(np.abs(cv2.Laplacian(image[..., 1], cv2.CV_32F)).mean())


def random_crop(photo: np.ndarray, rng: np.random.Generator, config: CropConfig) -> np.ndarray:
    """Cut a random (size, size, 3) uint8 square out of `photo`: random scale, flip and rotation."""
    return augment(scaled(photo, rng, config.size, config.scale), rng, flip=True, rotate=True)


def sharpest_crop(photos: list[np.ndarray], rng: np.random.Generator, config: CropConfig) -> np.ndarray:
    """Return the most detailed of `config.candidates` random crops of random photos."""
    drawn = (rng.integers(len(photos)) for _ in range(config.candidates))
    crop = max((random_crop(photos[i], rng, config) for i in drawn), key=detail)
    return grayed(crop) if config.gray and rng.random() < config.gray else crop


def grayed(image: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) uint8 RGB with its luma in all three channels."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


@dataclass(frozen=True)
class PairBatches(Batches):
    """Batches of (hq, lq) crops.

    Attributes:
        photos: decoded photos, (H, W, 3) uint8 each.
        batch_size: images in a batch.
        crop: settings of the crops.
        degradation: makes `lq`; None for batches without `lq`.
        seed: seed of the sequence.
    """

    photos: list[np.ndarray]
    batch_size: int
    crop: CropConfig
    degradation: Degradation | None
    seed: int = 0

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        """Return the batch of `step`: `hq` and, with a degradation, `lq` (B, size, size, 3) uint8 RGB."""
        items = [self._item(np.random.default_rng((self.seed, step, i))) for i in range(self.batch_size)]
        return {key: np.stack([item[key] for item in items]) for key in items[0]}

    def _item(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        hq = sharpest_crop(self.photos, rng, self.crop)
        if self.degradation is None:
            return {"hq": hq}
        pair = self.degradation(hq, rng)
        # Enlarged from 8 bits, as in restoration: users have files, not floats.
        lq = resize_bytes(to_depth(pair.lq, np.uint8), hq.shape[:2])
        return {"hq": to_depth(pair.hq, np.uint8), "lq": lq}
