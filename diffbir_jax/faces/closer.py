"""A closer look at a face: detectors give points tilted towards the upright, and inexact ones of small faces.

The face is cut out, turned by several angles and detected again. The score is highest where the face is upright. There
the points of several zooms are averaged.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from diffbir_jax.faces.affine import invert, moved, sampled, warped

if TYPE_CHECKING:
    from diffbir_jax.faces.find import Detector, Face

# Side of the pictures that the detector looks at, and the usual size of the face in them.
SIDE, USUAL = 128, 56
# Small faces are enlarged by at most this factor, but always to this size: YuNet is made for 10 pixels and more.
ENLARGED, LEAST = 2.0, 20
# Zooms of the last looks, of the looks for the turn, and of those all around, in units of that size.
ZOOMS, FEW, ONE = (0.72, 1.0, 1.3), (0.72, 1.15), (1.0,)
# A face's size in units of its longest distance among eyes and mouth.
WHOLE = 2.3
# Turns in degrees: all around, near the best, nearer, and for the points.
AROUND, NEAR, NEARER, LAST = (
    tuple(range(-150, 181, 30)),
    (-30, -15, 0, 15, 30),
    (-20, -10, 0, 10, 20),
    (-10, -5, 0, 5, 10),
)
# Scores differ by about this much between a face upright and one turned by 20 degrees.
SHARPNESS = 0.02
# Heads are rarely upside down: what such a turn must gain in score.
UPSIDE_DOWN = 0.03
# The score of a view without a face.
NOTHING = 0.3
# The part of the photo that is looked at, in units of the face's size, and its side in pixels.
AREA, KEPT = 5.0, 300


class _View(NamedTuple):
    """What is looked at: the centre (x, y) of a face and its size, in pixels of the photo."""

    centre: np.ndarray
    size: float


def look_closer(pixels: np.ndarray, face: "Face", detector: "Detector") -> "Face":
    """Return the face with better points and its score when upright; as it is if it is not found again.

    Args:
        pixels: (H, W, 3) RGB uint8.
        face: a face in it.
        detector: what looks again.
    """
    matrix, part = _part(pixels, _view(face.points))
    view = _view(moved(matrix, face.points))
    around = np.array([_score(_looks(part, view, each, ONE, detector)) for each in AROUND])
    penalty = UPSIDE_DOWN * (1 - np.cos(np.deg2rad(AROUND))) / 2
    turn = float(AROUND[int(np.argmax(around - penalty))])
    for near in (NEAR, NEARER):
        turn = _upright(part, view, turn + np.array(near), detector)
    found = [one for more in LAST for one in _looks(part, view, turn + more, ZOOMS, detector)]
    if not found:
        return face
    points = moved(invert(matrix), np.mean([one.points for one in found], axis=0))
    return face._replace(points=points, score=float(np.mean([one.score for one in found])))


def _part(pixels: np.ndarray, view: _View) -> tuple[np.ndarray, np.ndarray]:
    """The surroundings of a face, reduced if it is large: the map to them, and (s, s, 3) uint8."""
    side = AREA * view.size
    scale = min(1.0, KEPT / side)
    kept = max(int(side * scale), 1)
    matrix = np.concatenate([scale * np.eye(2), (kept / 2 - scale * view.centre)[:, None]], axis=1)
    return matrix, warped(pixels, matrix, (kept, kept))


def _view(points: np.ndarray) -> _View:
    across, down = points[1] - points[0], points[3:].mean(0) - points[:2].mean(0)
    return _View(points.mean(0), WHOLE * float(max(np.hypot(*across), np.hypot(*down), 1e-3)))


def _upright(pixels: np.ndarray, view: _View, turns: np.ndarray, detector: "Detector") -> float:
    """The turn at which the face is upright: the mean of some turns, weighted by scores."""
    scores = np.array([_score(_looks(pixels, view, each, FEW, detector)) for each in turns])
    weights = np.exp((scores - scores.max()) / SHARPNESS)
    return float((weights * turns).sum() / weights.sum())


def _looks(
    pixels: np.ndarray, view: _View, turn: float, zooms: Sequence[float], detector: "Detector"
) -> list["Face"]:
    """The face as it is found at several zooms, in pixels of the photo; fewer where it is not found."""
    usual = min(USUAL, max(LEAST, ENLARGED * view.size))
    seen = [_look(pixels, view, turn, zoom * usual, detector) for zoom in zooms]
    return [face for face in seen if face is not None]


def _look(pixels: np.ndarray, view: _View, turn: float, zoom: float, detector: "Detector") -> "Face | None":
    """Detect the face in a picture turned by `turn` degrees, in which it has `zoom` pixels."""
    scale, angle = zoom / view.size, np.deg2rad(turn)
    linear = scale * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    matrix = np.concatenate([linear, (SIDE / 2 - linear @ view.centre)[:, None]], axis=1)
    back = invert(matrix)
    found = [
        f._replace(points=moved(back, f.points))
        for f in detector.detect(sampled(pixels, matrix, (SIDE, SIDE)))
    ]
    near = [f for f in found if np.hypot(*(f.points.mean(0) - view.centre)) < 0.35 * view.size]
    return max(near, key=lambda face: face.score, default=None)


def _score(found: Sequence["Face"]) -> float:
    return float(np.mean([face.score for face in found])) if found else NOTHING
