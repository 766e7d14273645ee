"""The metric type: a name, the kind of comparison, and a loader of the scoring function."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

# "reference" scores an image against its ground truth, "single" an image alone, "set" all images against all ground
# truths, "spread" several results of one image.
Kind = Literal["reference", "single", "set", "spread"]
Better = Literal["higher", "lower"]


class UnavailableError(Exception):
    """A metric that cannot run here; the message says what is missing and how to get it."""


@dataclass(frozen=True)
class Setup:
    """Inputs of a metric's loader. Those that change scores are part of the protocol.

    Attributes:
        crop: pixels along every edge that PSNR and SSIM leave out.
        weights: folder of the networks of learned metrics, or None.
        reference: folder of the images that "set" metrics compare with where there are no ground truths, or None.
    """

    crop: int = 0
    weights: Path | None = None
    reference: Path | None = None


class SetScore(NamedTuple):
    """A metric of two sets of images, in two steps, so that each image is processed once.

    Attributes:
        features: (H, W, 3) uint8 -> (D,) float64.
        distance: (N, D), (M, D) -> the score of the first set against the second.
    """

    features: Callable[[np.ndarray], np.ndarray]
    distance: Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Metric:
    """One column of a table.

    Attributes:
        name: its name in flags and files.
        title: its title in tables.
        kind: the kind of comparison; see `load`.
        better: whether higher or lower is better.
        load: returns the scoring function, on images (H, W, 3) uint8. "reference": (image, ground truth) -> float;
            "single": (image) -> float; "set": a `SetScore`; "spread": (images of one input) -> float. Raises
            UnavailableError if packages or weights are missing.
        version: version of the implementation. Raise it when scores change, so that cached scores are not reused.
        files: files in `Setup.weights` that it reads; a result carries their checksums. Stems of .safetensors files,
            whole names of others.
        packages: packages other than this project's own; a result carries their versions.
        cropped: whether it uses `Setup.crop`.
    """

    name: str
    title: str
    kind: Kind
    better: Better
    load: Callable[[Setup], object] = field(repr=False)
    version: int = 1
    files: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    cropped: bool = False
