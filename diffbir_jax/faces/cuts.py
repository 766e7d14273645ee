"""The crops of a photo's faces on their way: which faces are restored, and what chooses their noise."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from diffbir_jax.console.errors import UserError
from diffbir_jax.faces.affine import compose, resizing
from diffbir_jax.faces.align import SIDE, crop, similarity
from diffbir_jax.faces.choice import Faces, largest_of
from diffbir_jax.faces.find import Face
from diffbir_jax.faces.sharpness import is_sharp
from diffbir_jax.restoration.restorer import Restorer

# Noise of the faces of a photo: their indices lie this far apart, so that they meet no other photo's.
STRIDE = 1_000_003
ZOOMS = (1, 2, 4)


class Cut(NamedTuple):
    """A face that is restored.

    Attributes:
        place: among the photo's faces, from the left.
        face: box, points and score.
        matrix: (2, 3), from the photo to a crop of 512 pixels.
        before: (512 / zoom, 512 / zoom, 3) the crop, of the photo's dtype.
    """

    place: int
    face: Face
    matrix: np.ndarray
    before: np.ndarray

    def index(self, photo: int) -> int:
        """What chooses the noise: that of the photo and the place there, whatever is restored beside it."""
        return (photo + (self.place + 1) * STRIDE) % 2**32


def fitting_zoom(restorer: Restorer) -> int:
    """The least zoom of crops, 1, 2 or 4, at which the restorer's preset shows all that it can."""
    preset = restorer.preset
    needed = max(preset.meant_from, preset.all_detail_from, preset.scales[0] if preset.scales else 1.0)
    return next((zoom for zoom in ZOOMS[:-1] if zoom >= needed), ZOOMS[-1])


def cut_faces(
    photo: np.ndarray, faces: Sequence[Face], choice: Faces, zoom: int
) -> tuple[list[Cut], dict[int, str]]:
    """Cut out the faces that are restored.

    Args:
        photo: (H, W, 3).
        faces: all of the photo, from left to right.
        choice: which of them.
        zoom: crops have 512 / zoom pixels.

    Returns:
        the crops, from left to right, and why the other faces are left, by their places.

    Raises:
        UserError: there is no such zoom.
    """
    if zoom not in ZOOMS:
        raise UserError(f"`zoom` is {zoom!r}; use 1, 2 or 4")
    cuts, left = [], {}
    largest = largest_of(list(faces))
    for place, face in enumerate(faces):
        if reason := choice.reason(face, largest):
            left[place] = reason
            continue
        matrix = similarity(face.points)
        if choice.skip_sharp and is_sharp(photo, matrix):
            left[place] = "already sharp"
            continue
        small = compose(resizing((SIDE, SIDE), (SIDE // zoom, SIDE // zoom)), matrix)
        before = crop(photo, small, SIDE // zoom, compat=choice.compat)
        cuts.append(Cut(place, face, matrix, before))
    return cuts, left
