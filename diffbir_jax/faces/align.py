"""Alignment: five points of a face, the similarity that brings them to FFHQ's places, and the crop."""

import cv2
import numpy as np

from diffbir_jax.console.errors import UserError
from diffbir_jax.faces.affine import check_image, compose, invert, resizing, warped

# Left and right eye (as seen in the image), tip of the nose, left and right corner of the mouth, in a crop of 512.
SIDE = 512
FFHQ = np.array(
    [
        (192.98138, 239.94708),
        (318.90277, 240.1936),
        (256.63416, 314.01935),
        (201.26117, 371.41043),
        (313.08905, 371.15118),
    ]
)
# What the reference shows beyond the photo's border (RGB of 8 bits): meant as BGR, taken as RGB.
REFERENCE_FILL = (135, 133, 132)


def template(size: int = SIDE) -> np.ndarray:
    """The places of the five points in a crop of `size` pixels: (5, 2) float64, (x, y)."""
    return FFHQ * (size / SIDE)


def similarity(points: np.ndarray, size: int = SIDE) -> np.ndarray:
    """The turn, scale and shift that bring a face's points to their places in a crop.

    OpenCV's least median of squares: one wrong point does not spoil the rest. The result is repeatable.

    Args:
        points: (5, 2), (x, y) in pixels of the photo: eyes, nose, corners of the mouth, left ones first.
        size: side of the crop.

    Returns:
        (2, 3) float64, from the photo to the crop.

    Raises:
        UserError: points of another shape, not finite, or all in one place.
    """
    points = np.asarray(points, np.float64)
    if points.shape != (5, 2) or not np.isfinite(points).all():
        raise UserError(f"points are {points.tolist()}; give five finite (x, y): eyes, nose, mouth corners")
    matrix, _ = cv2.estimateAffinePartial2D(points, template(size), method=cv2.LMEDS)
    if matrix is None or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:, :2])) < 1e-9:
        raise UserError(f"points are {points.tolist()}; they make no face: give five different places")
    return matrix


def crop(
    photo: np.ndarray,
    matrix: np.ndarray,
    size: int = SIDE,
    *,
    compat: bool = False,
    fill: tuple[int, int, int] = REFERENCE_FILL,
) -> np.ndarray:
    """Cut an aligned face out of a photo.

    Faces larger than the crop are filtered first, so that they do not alias. Beyond its border a photo is reflected.

    Args:
        photo: (H, W) or (H, W, C), uint8, uint16 or float32.
        matrix: (2, 3), from the photo to the crop; see `similarity`.
        size: side of the crop.
        compat: crop as the reference does: without a filter, and one colour beyond the border.
        fill: this colour, in levels of 8 bits; only read with `compat`.

    Returns:
        (size, size) or (size, size, C) of the photo's dtype.

    Raises:
        UserError: a photo of another kind, or a map without inverse.
    """
    check_image(photo, "photo")
    if not compat:
        return warped(photo, matrix, (size, size))
    white = 1.0 if photo.dtype == np.float32 else np.iinfo(photo.dtype).max
    colour = tuple(level * (white / 255) for level in fill)
    return cv2.warpAffine(
        photo, matrix, (size, size), borderMode=cv2.BORDER_CONSTANT, borderValue=colour
    ).reshape(size, size, *photo.shape[2:])


def to_result(matrix: np.ndarray, photo: tuple[int, int], result: tuple[int, int]) -> np.ndarray:
    """The map from a crop to the result, which is the photo resized.

    Args:
        matrix: (2, 3), from the photo to the crop.
        photo: (height, width) of the photo.
        result: (height, width) of the result.

    Returns:
        (2, 3) float64. Its offset is (scale - 1) / 2 pixels, so that the crop comes back to where it was.

    Raises:
        UserError: the map has no inverse.
    """
    return compose(resizing(photo, result), invert(matrix))
