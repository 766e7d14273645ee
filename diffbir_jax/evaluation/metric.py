"""What a metric is: a name, what it compares, and a loader of the function that scores."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

# "reference" scores an image against its ground truth, "single" an image alone, "set" all images against all ground
# truths at once, "spread" several results of one image.
Kind = Literal["reference", "single", "set", "spread"]
Better = Literal["higher", "lower"]


class UnavailableError(Exception):
    """A metric cannot run here; the message says what is missing and how to give it."""


@dataclass(frozen=True)
class Setup:
    """What loading a metric may depend on; what changes scores is part of the protocol.

    Attributes:
        crop: pixels along every edge that PSNR and SSIM leave out.
        weights: folder of the networks of learned metrics, or None.
    """

    crop: int = 0
    weights: Path | None = None


class SetScore(NamedTuple):
    """A metric of two sets of images, in two steps, so that an image is looked at once.

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
        name: as flags and files have it.
        title: as tables have it.
        kind: what it compares; see `load`.
        better: whether higher or lower is better.
        load: returns what scores: of a "reference" metric (image, ground truth) -> float, of a "single" one (image) ->
            float, of images (H, W, 3) uint8; of a "set" metric a `SetScore`; of a "spread" metric (images of one input)
            -> float. Raises UnavailableError where packages or weights are missing.
        version: of the implementation: raised when scores change, so that cached ones are not taken for them.
        files: the files in `Setup.weights` that it reads, whose checksums a result carries: the stems of .safetensors
            files, whole names of others.
        packages: beyond this project's own, whose versions a result carries.
        cropped: whether `Setup.crop` matters.
    """

    name: str
    title: str
    kind: Kind
    better: Better
    load: Callable[[Setup], Any] = field(repr=False)
    version: int = 1
    files: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    cropped: bool = False
