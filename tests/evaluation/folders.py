"""Folders of small images, metrics that are counted, and results made of numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from diffbir_jax.evaluation import result
from diffbir_jax.evaluation.aggregate import summarise
from diffbir_jax.evaluation.metric import Kind, Metric
from tests.micro import picture

SIDE = 16


def save(path: Path, level: int = 0, side: tuple[int, int] = (SIDE, SIDE)) -> Path:
    """Write a picture that is brighter by `level`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(picture(*side, seed=0) // 2 + np.uint8(level)).save(path)
    return path


def fill_folder(folder: Path, names: Sequence[str], first: int = 0) -> Path:
    """Write pictures of levels `first`, `first` + 1, ..."""
    for level, name in enumerate(names, first):
        save(folder / name, level)
    return folder


class Counted:
    """Scores by the difference of the means of both images (or the mean of one), and counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, *images: np.ndarray) -> float:
        self.calls += 1
        means = [float(image.mean()) for image in images]
        return abs(means[0] - means[1]) if len(means) > 1 else means[0]

    def metric(self, name: str = "gap", kind: Kind = "reference", **more: object) -> Metric:
        return Metric(name, name.upper(), kind, "lower", lambda setup: self, **more)


def make_result(name: str, scores: Mapping[str, Sequence[float | None]], **more: object) -> result.Result:
    """A result whose metrics are those of `scores`; "psnr" is better higher, all else lower."""
    columns = {
        key: result.Column(key.upper(), "higher" if key == "psnr" else "lower", "reference", 1)
        for key in scores
    }
    count = len(next(iter(scores.values())))
    images = tuple(
        result.Image(
            f"image{i}",
            {key: values[i] for key, values in scores.items()},
            problems={key: "no number" for key, values in scores.items() if values[i] is None},
        )
        for i in range(count)
    )
    summary = {key: mean for key, values in scores.items() if (mean := summarise(values)) is not None}
    fields = {"protocol": {"scoring": {"crop": 0}}, "versions": {"numpy": "2"}, "checksums": {}} | more
    return result.Result(name, columns=columns, images=images, summary=summary, **fields)
