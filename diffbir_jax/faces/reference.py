"""Pasting as the reference does, for comparisons: half a pixel off, and later faces cover earlier ones."""

from collections.abc import Sequence

import cv2
import numpy as np

# Labels of CelebAMask-HQ that belong to the face: 1 skin to 13 hair without 0 background, and 15 ear-ring.
KEPT = (*range(1, 14), 15)
# The blur of a parsing mask in a crop of 512: OpenCV's kernel and sigma, twice; and the pixels cut at each edge.
PARSED = 512
KERNEL, SIGMA, CUT = (101, 101), 11.0, 10


def reference_inverse(matrix: np.ndarray, scale: float) -> np.ndarray:
    """The reference's map from the crop to the photo times `scale`: (2, 3) float64, its offset is scale / 2 above 1."""
    inverse = cv2.invertAffineTransform(matrix) * scale
    if scale > 1:
        inverse[:, 2] += 0.5 * scale
    return inverse


def parsed_mask(labels: np.ndarray) -> np.ndarray:
    """A soft mask of the parts of a face.

    Args:
        labels: (512, 512) uint8, labels of CelebAMask-HQ.

    Returns:
        (512, 512) float64 in [0, 1], 0 along the edges.
    """
    mask = np.isin(labels, KEPT) * 255.0
    for _ in range(2):
        mask = cv2.GaussianBlur(mask, KERNEL, SIGMA)
    mask[:CUT] = mask[-CUT:] = 0.0
    mask[:, :CUT] = mask[:, -CUT:] = 0.0
    return mask / 255.0


def square_masks(
    inverse: np.ndarray, side: int, size: tuple[int, int], scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """The footprint of a crop in the result, hard and with a soft edge; (H, W) float32 each."""
    footprint = cv2.warpAffine(np.ones((side, side), np.float32), inverse, size[::-1])
    thin = max(int(2 * scale), 1)
    hard = cv2.erode(footprint, np.ones((thin, thin), np.uint8))
    edge = int(np.sum(hard) ** 0.5) // 20
    # OpenCV reads an empty kernel as 3x3.
    wide = 2 * edge or 3
    soft = cv2.GaussianBlur(cv2.erode(hard, np.ones((wide, wide), np.uint8)), (2 * edge + 1, 2 * edge + 1), 0)
    return hard, soft


def reference_paste(
    background: np.ndarray,
    crops: Sequence[np.ndarray],
    inverses: Sequence[np.ndarray],
    scale: float,
    labels: Sequence[np.ndarray] | None = None,
    *,
    least: bool = True,
) -> np.ndarray:
    """Paste restored crops one after another.

    Args:
        background: (H, W, C), uint8 or uint16, in the size of the result; channels after the third are kept.
        crops: (S, S, 3) each.
        inverses: (2, 3) each, see `reference_inverse`.
        scale: side of the result divided by that of the photo.
        labels: (512, 512) uint8 parsing maps, one per crop.
        least: with labels, whether the mask is the least of both masks (DiffBIR), or that of the labels (facexlib).

    Returns:
        (H, W, C), cut off without rounding: uint16 if a value exceeds 256, else uint8.
    """
    size = background.shape[:2]
    result = background.astype(np.float64)
    for number, (pixels, inverse) in enumerate(zip(crops, inverses)):
        face = cv2.warpAffine(pixels, inverse, size[::-1])
        hard, mask = square_masks(inverse, pixels.shape[0], size, scale)
        if labels is not None:
            parsed = cv2.warpAffine(parsed_mask(labels[number]), inverse, size[::-1], flags=cv2.INTER_LINEAR)
            mask = np.minimum(parsed, mask) if least else parsed
        if labels is None or least:
            face = hard[..., None] * face
        weight = mask[..., None]
        result[..., :3] = weight * face + (1 - weight) * result[..., :3]
    return result.astype(np.uint16 if result.max() > 256 else np.uint8)
