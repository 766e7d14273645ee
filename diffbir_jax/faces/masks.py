"""Where a pasted face counts: soft masks in the pixels of its crop, computed for any pixels of the result."""

from typing import Literal, NamedTuple

import numpy as np

from diffbir_jax.console.errors import UserError
from diffbir_jax.faces.affine import moved

Shape = Literal["ellipse", "square"]
# Semi-axes in units of the distances between the eyes, and from the eyes to the mouth: forehead to chin, ear to ear.
ACROSS, DOWN = 1.25, 1.42
# In profile the eyes are close: a face is at least this wide, for its height.
NARROWEST = 0.75
# The mask falls from 1 to 0 over this part of the radius, or over this part of the crop's side.
FEATHER, EDGE = 0.35, 0.08
# Between two faces the result changes over from one to the other within this part of the radius, to each side.
CHANGE = 0.08


class Ellipse(NamedTuple):
    """The outline of a face in pixels of its crop.

    Attributes:
        centre: (x, y).
        axes: (2, 2), rows: the direction across and the one down the face, divided by the semi-axis.
    """

    centre: np.ndarray
    axes: np.ndarray

    def radius(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The distance from the centre, 1 on the outline, of pixels of the crop."""
        (a, b), (c, d) = self.axes
        x, y = x - self.centre[0], y - self.centre[1]
        return np.hypot(a * x + b * y, c * x + d * y)


def outline(points: np.ndarray, matrix: np.ndarray) -> Ellipse:
    """The ellipse around a face.

    Args:
        points: (5, 2) in the photo: eyes, nose, corners of the mouth.
        matrix: (2, 3), from the photo to the crop.

    Raises:
        UserError: eyes and mouth are in one place.
    """
    points = moved(matrix, points)
    eyes, mouth = points[:2].mean(0), points[3:].mean(0)
    long, wide = np.hypot(*(mouth - eyes)), np.hypot(*(points[1] - points[0]))
    if not long > 0:
        raise UserError(f"points are {points.tolist()}; eyes and mouth must be in different places")
    down = (mouth - eyes) / long
    high = DOWN * max(long, 0.8 * wide)
    half = max(ACROSS * wide, NARROWEST * high)
    return Ellipse((eyes + mouth) / 2, np.array([[down[1], -down[0]] / half, down / high]))


def smooth_step(value: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, and between them a curve without corners."""
    value = value.clip(0.0, 1.0)
    return value * value * (3.0 - 2.0 * value)


def inside(x: np.ndarray, y: np.ndarray, side: int) -> np.ndarray:
    """1 inside a crop of `side` pixels, falling to 0 towards its edges, and 0 outside."""
    distance = np.minimum(np.minimum(x, y), side - 1 - np.maximum(x, y))
    return smooth_step((distance + 0.5) / (EDGE * side))


def mask_of(shape: Shape, face: Ellipse, x: np.ndarray, y: np.ndarray, side: int) -> np.ndarray:
    """The share of the face in pixels (x, y) of a crop of `side` pixels: float, 0 to 1."""
    edge = inside(x, y, side)
    return edge if shape == "square" else edge * smooth_step((1.0 - face.radius(x, y)) / FEATHER)


def owned(mine: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The share that a face keeps beside another one, by the radii of both; the other keeps the rest."""
    return smooth_step(0.5 + (other - mine) / (2 * CHANGE))
