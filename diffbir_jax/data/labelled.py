"""Degraded crops with the parameters of their degradation, read from the recorded draws."""

import re
from dataclasses import dataclass

import numpy as np

from diffbir_jax.data.batches import Batches, HostBatch
from diffbir_jax.data.degradation import Degradation
from diffbir_jax.data.kernels import gaussian_kernel
from diffbir_jax.data.photos import CropConfig, sharpest_crop
from diffbir_jax.data.steps import Record
from diffbir_jax.imaging.bytes import to_depth


@dataclass(frozen=True)
class LabelledBatches(Batches):
    """Batches of degraded crops and their labels; each is a pure function of (seed, step, index).

    Attributes:
        photos: decoded photos, (H, W, 3) uint8 each.
        batch_size: images in a batch.
        crop: settings of the crops.
        degradation: its results have the crop's size; its record is as for `labels_of`.
        seed: seed of the sequence.
    """

    photos: list[np.ndarray]
    batch_size: int
    crop: CropConfig
    degradation: Degradation
    seed: int = 0

    def __call__(self, step: int) -> HostBatch:
        """Return the batch of `step`: `lq` (B, size, size, 3) uint8 RGB and `labels` (B, 4) float32."""
        items = [self._item(np.random.default_rng((self.seed, step, i))) for i in range(self.batch_size)]
        images, labels = zip(*items)
        return {"lq": np.stack(images), "labels": np.stack(labels)}

    def _item(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        made = self.degradation(sharpest_crop(self.photos, rng, self.crop), rng)
        return to_depth(made.lq, np.uint8), labels_of(made.record)


def labels_of(record: Record) -> np.ndarray:
    """Return blur, noise, JPEG quality and scale of a record, as `models.degradation.DegradationReader` defines them.

    The record has one blur at most, one reduction, noise and JPEG. If the photo is enlarged after noise and
    JPEG, these are no longer what they were: they are NaN.

    Returns:
        (4,) float32.
    """
    # The same operation has a number in the second branch of a recipe: "blur2.sigma_x".
    drawn = {re.sub(r"\d+\.", ".", name): value for name, value in record.items()}
    scale = float(drawn.get("downscale.factor", 1.0))
    noise, quality = float(drawn.get("noise.sigma", 0.0)), float(drawn.get("jpeg.quality", 100.0))
    if "resize.scale" in drawn and _enlarged_last(list(drawn)):
        noise = np.nan if noise else 0.0
        quality = np.nan if "jpeg.quality" in drawn else 100.0
    return np.array((kernel_width(drawn) / scale, noise, quality, scale), np.float32)


def kernel_width(drawn: Record) -> float:
    """Return the standard deviation (pixels) of the drawn kernel as it is sampled, the root mean square of both axes.

    A Gaussian of 0.3 pixels is nearly one point: it changes no image, and its width as sampled is 0.1.
    """
    if "blur.sigma_x" not in drawn:
        return 0.0
    sigma_x = float(drawn["blur.sigma_x"])
    sigma_y, theta = float(drawn.get("blur.sigma_y", sigma_x)), float(drawn.get("blur.theta", 0.0))
    size = int(drawn["blur.size"])
    kernel, axis = gaussian_kernel(size, sigma_x, sigma_y, theta), np.arange(size) - size // 2
    squares = np.add.outer(axis**2, axis**2)
    return float(np.sqrt((kernel * squares).sum() / 2))


def _enlarged_last(names: list[str]) -> bool:
    """Whether the resizing comes after noise and JPEG."""
    place = names.index("resize.scale")
    return not any(name.startswith(("noise.", "jpeg.")) for name in names[place:])
