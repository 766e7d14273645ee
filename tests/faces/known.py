"""Faces that are known without a network, in photos that are told apart by their sides."""

import numpy as np
import pytest

from diffbir_jax.faces import cuts, memory, restoring
from diffbir_jax.faces.align import similarity
from diffbir_jax.faces.find import Face
from tests.faces.pictures import ASTRONAUT

# Small crops keep the tests quick.
SIDE = 64


class Known:
    """A detector that knows the faces of photos by their sides."""

    def __init__(self, faces: dict[tuple[int, int], list[Face]]):
        self.faces = faces

    def of(self, image: np.ndarray) -> list[Face]:
        return self.faces.get((image.shape[0], image.shape[1]), [])


def face(left: float, top: float, size: float) -> Face:
    points = (ASTRONAUT - (178, 62.6)) * (size / 101) + (left, top)
    return Face((left, top, size * 0.9, size * 1.1), points, 0.9)


TWO, ONE = (90, 120), (96, 96)
# As large as a crop, so that crops and backgrounds share programs.
SMALL = (SIDE, SIDE)
KNOWN = Known({TWO: [face(8, 20, 40), face(60, 20, 50)], ONE: [face(30, 20, 45)], SMALL: [face(18, 14, 30)]})


def small_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Crops of 64 pixels in place of 512."""
    for module in (cuts, memory):
        monkeypatch.setattr(module, "SIDE", SIDE)
    monkeypatch.setattr(cuts, "similarity", lambda points: similarity(points, SIDE))


def known_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    """`KNOWN` in place of the shipped detector."""
    monkeypatch.setattr(restoring, "detect", lambda photo, detector: (detector or KNOWN).of(photo))
