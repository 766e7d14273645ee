"""Pasting restored faces into a background: soft masks, neighbours kept apart, the background's low frequencies."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from diffbir_jax.console.errors import UserError
from diffbir_jax.faces.affine import (
    check_image,
    compose,
    corners,
    invert,
    moved,
    reduction,
    resizing,
    sampled,
    shifted,
    smoothed,
    warped,
)
from diffbir_jax.faces.align import to_result
from diffbir_jax.faces.masks import Ellipse, Shape, mask_of, outline, owned
from diffbir_jax.faces.reference import PARSED, parsed_mask, reference_inverse, reference_paste

# Rows of a face that are pasted at a time: a face of any size takes little memory.
ROWS = 512
# Low frequencies are compared in crops of this many pixels, after a Gaussian filter of this sigma.
COARSE, SIGMA = 128, 8.0
# ITU-R BT.601.
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


# Top, left, bottom and right of pixels in the result; the last two are excluded.
Box = tuple[int, int, int, int]


class Patch(NamedTuple):
    """A restored face.

    Attributes:
        pixels: (S, S, 3) RGB, of the background's dtype: the restored crop.
        points: (5, 2), (x, y) in the photo: eyes, nose, corners of the mouth.
        matrix: (2, 3), from the photo to a crop of S pixels; see `align.similarity`.
        labels: (512, 512) uint8, a parsing map of the crop with CelebAMask-HQ's labels; None: a mask by points.
    """

    pixels: np.ndarray
    points: np.ndarray
    matrix: np.ndarray
    labels: np.ndarray | None = None


class _Placed(NamedTuple):
    """A patch in the result: the map from the result to the crop, its outline, and the box around it."""

    patch: Patch
    matrix: np.ndarray
    ellipse: Ellipse
    box: Box


def paste(
    background: np.ndarray,
    patches: Sequence[Patch],
    photo: tuple[int, int],
    *,
    shape: Shape = "ellipse",
    keep_low: bool = True,
    strength: float = 1.0,
    compat: bool = False,
) -> np.ndarray:
    """Paste restored faces into the background.

    Each pixel shows the face that it is nearest to, whatever the order. Gray backgrounds stay gray.

    Args:
        background: (H, W) or (H, W, C): C = 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha; uint8, uint16 or float32
            in [0, 1]. Alpha is kept.
        patches: the faces.
        photo: (height, width) of the photo in which the faces lie; the background is this photo resized.
        shape: of masks without labels: "ellipse" around the face, or "square", nearly the whole crop.
        keep_low: take the low frequencies from the background, so that no shade shows along the mask.
        strength: share of the faces, 0 to 1.
        compat: paste as the reference does; `shape`, `keep_low` and `strength` are not read. 8 and 16 bits in colour
            only.

    Returns:
        the background with faces, of its shape and dtype.

    Raises:
        UserError: pictures of another kind, a `strength` or a `shape` that does not exist.
    """
    check_image(background, "background")
    for patch in patches:
        _check(patch, background)
    if compat:
        return _as_reference(background, patches, photo)
    if shape not in ("ellipse", "square") or not 0 <= strength <= 1:
        raise UserError(
            f"mask {shape!r}, strength {strength}; use the mask 'ellipse' or 'square', and a strength from 0 to 1"
        )
    size = (background.shape[0], background.shape[1])
    placed = [_place(patch, photo, size) for patch in patches]
    given = background[..., None] if background.ndim == 2 else background
    result = given.copy()
    for number, face in enumerate(placed):
        beside = [other for at, other in enumerate(placed) if at != number and _touch(face.box, other.box)]
        for box, change in _changes(given, face, beside, shape, keep_low):
            _add(result, box, change * np.float32(strength))
    return result.reshape(background.shape)


def _check(patch: Patch, background: np.ndarray) -> None:
    """Raise UserError for a crop that does not fit."""
    pixels, labels = patch.pixels, patch.labels
    square = pixels.ndim == 3 and pixels.shape[0] == pixels.shape[1] >= 2 and pixels.shape[2] == 3
    if pixels.dtype != background.dtype or not square:
        raise UserError(
            f"the crop is {pixels.dtype} of shape {pixels.shape}; give (S, S, 3) {background.dtype} like the background"
        )
    if labels is not None and labels.shape != (PARSED, PARSED):
        raise UserError(f"labels are of shape {labels.shape}; give ({PARSED}, {PARSED})")


def _place(patch: Patch, photo: tuple[int, int], size: tuple[int, int]) -> _Placed:
    """Find where a patch lies in the result of `size`."""
    forth = to_result(patch.matrix, photo, size)
    reach = moved(forth, corners(*patch.pixels.shape[:2]))
    left, top = (int(np.floor(low)) for low in reach.min(0))
    right, bottom = (int(np.ceil(high)) + 1 for high in reach.max(0))
    box = (max(top, 0), max(left, 0), min(bottom, size[0]), min(right, size[1]))
    return _Placed(patch, invert(forth), outline(patch.points, patch.matrix), box)


def _touch(a: Box, b: Box) -> bool:
    """Whether two boxes have a pixel in common."""
    return max(a[0], b[0]) < min(a[2], b[2]) and max(a[1], b[1]) < min(a[3], b[3])


def _changes(
    given: np.ndarray, face: _Placed, beside: list[_Placed], shape: Shape, keep_low: bool
) -> Iterator[tuple[Box, np.ndarray]]:
    """Yield, strip by strip, its box and what the face adds to the background there, (h, w, 1 or 3) float32."""
    top, left, bottom, right = face.box
    if top >= bottom or left >= right:
        return
    colours = given[..., : 3 if given.shape[2] > 2 else 1]
    layers = _layers(colours, face, keep_low)
    for row in range(top, bottom, ROWS):
        box = (row, left, min(row + ROWS, bottom), right)
        part = colours[row : box[2], left:right].astype(np.float32)
        weight = _weight(face, beside, shape, box, layers.mask)
        yield box, weight[..., None] * (_shown(face, box, layers) - part)


class _Layers(NamedTuple):
    """What is resampled for a face, float32: its pixels, the shift of its low frequencies and a mask by labels."""

    pixels: np.ndarray
    shift: np.ndarray | None
    mask: np.ndarray | None


def _layers(colours: np.ndarray, face: _Placed, keep_low: bool) -> _Layers:
    pixels = face.patch.pixels.astype(np.float32)
    if _is_gray(colours, face.box):
        pixels = np.repeat((pixels @ LUMA)[..., None], colours.shape[2], axis=2)
    shift = _low(colours, pixels, face) if keep_low else None
    factor = 1 / reduction(face.matrix)
    return _Layers(smoothed(pixels, factor), shift, _labelled(face.patch, factor))


def _resampled(layer: np.ndarray, face: _Placed, box: Box) -> np.ndarray:
    """A layer of the crop, of any side, as it lies in a box of the result."""
    top, left, bottom, right = box
    to_crop = resizing(_sides(layer), _sides(face.patch.pixels))
    there = shifted(compose(invert(face.matrix), to_crop), left, top)
    return sampled(layer, there, (bottom - top, right - left))


def _shown(face: _Placed, box: Box, layers: _Layers) -> np.ndarray:
    found = _resampled(layers.pixels, face, box)
    return found if layers.shift is None else found + _resampled(layers.shift, face, box)


def _add(result: np.ndarray, box: Box, change: np.ndarray) -> None:
    """Add a change to the colours of a picture, rounded and within the range of its dtype."""
    top, left, bottom, right = box
    part = result[top:bottom, left:right, : change.shape[2]]
    total = part.astype(np.float32) + change
    if result.dtype.kind == "u":
        total = np.rint(total.clip(0, np.iinfo(result.dtype).max))
    part[...] = total


def _grid(face: _Placed, box: Box) -> tuple[np.ndarray, np.ndarray]:
    """The places in the crop of a box of the result: x and y, (h, w) float32 each."""
    top, left, bottom, right = box
    x = np.arange(left, right, dtype=np.float64)[None]
    y = np.arange(top, bottom, dtype=np.float64)[:, None]
    across, down = ((row[0] * x + row[1] * y + row[2]).astype(np.float32) for row in face.matrix)
    return across, down


def _shared(face: _Placed, beside: list[_Placed], box: Box) -> np.ndarray:
    """The share of the pixels of a box that belongs to a face and not to its neighbours."""
    mine = face.ellipse.radius(*_grid(face, box))
    share = np.ones(mine.shape, np.float32)
    for other in beside:
        if _touch(box, other.box):
            share *= owned(mine, other.ellipse.radius(*_grid(other, box)))
    return share


def _weight(
    face: _Placed, beside: list[_Placed], shape: Shape, box: Box, labelled: np.ndarray | None
) -> np.ndarray:
    """The share of the face in the pixels of a box, by labels if there are some: (h, w) float32."""
    if labelled is not None:
        return _shared(face, beside, box) * _resampled(labelled, face, box) * _on_crop(face, box)
    mask = mask_of(shape, face.ellipse, *_grid(face, box), face.patch.pixels.shape[0])
    return mask * _shared(face, beside, box)


def _on_crop(face: _Placed, box: Box) -> np.ndarray:
    """1 for the pixels of a box that lie in the crop, else 0."""
    x, y = _grid(face, box)
    last = face.patch.pixels.shape[0] - 1
    return ((np.minimum(x, y) >= 0) & (np.maximum(x, y) <= last)).astype(np.float32)


def _labelled(patch: Patch, factor: float) -> np.ndarray | None:
    """The mask by labels, (512, 512) float32, ready to be reduced by `factor`."""
    if patch.labels is None:
        return None
    return smoothed(parsed_mask(patch.labels).astype(np.float32), factor * PARSED / patch.pixels.shape[0])


def _sides(image: np.ndarray) -> tuple[int, int]:
    return image.shape[0], image.shape[1]


def _low(colours: np.ndarray, pixels: np.ndarray, face: _Placed) -> np.ndarray:
    """What the background's low frequencies have more than the face's: (COARSE, COARSE, C) float32."""
    coarse = resizing(_sides(pixels), (COARSE, COARSE))
    behind = warped(colours, compose(coarse, face.matrix), (COARSE, COARSE)).astype(np.float32)
    more = behind - warped(pixels, coarse, (COARSE, COARSE))
    # Beyond the border the background is only a reflection: it does not count.
    seen = _seen(compose(invert(face.matrix), invert(coarse)), _sides(colours))
    total = np.asarray(cv2.GaussianBlur(seen, (0, 0), SIGMA)).clip(1e-3)
    blurred = np.asarray(cv2.GaussianBlur(more * seen[..., None], (0, 0), SIGMA)).reshape(more.shape)
    return np.asarray(blurred / total[..., None], np.float32)


def _seen(matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """1 for the pixels of the coarse crop that the map brings into an image of `size`, else 0."""
    y, x = np.mgrid[:COARSE, :COARSE]
    places = moved(matrix, np.stack([x, y], -1))
    inside = (places > -0.5) & (places < (size[1] - 0.5, size[0] - 0.5))
    return np.asarray(inside.all(-1), np.float32)


def _is_gray(colours: np.ndarray, box: Box) -> bool:
    """Whether the background holds no colour where a face goes."""
    top, left, bottom, right = box
    part = colours[top:bottom, left:right]
    return part.shape[2] < 3 or bool((part[..., :1] == part[..., 1:]).all())


def _as_reference(background: np.ndarray, patches: Sequence[Patch], photo: tuple[int, int]) -> np.ndarray:
    """Paste as DiffBIR does."""
    if background.ndim != 3 or background.shape[2] < 3 or background.dtype == np.float32:
        raise UserError(
            f"the background is {background.dtype} of shape {background.shape}; `compat` pastes into RGB of 8 or 16 "
            "bits: leave it out"
        )
    scale = background.shape[0] / photo[0]
    inverses = [reference_inverse(patch.matrix, scale) for patch in patches]
    labels = [patch.labels for patch in patches if patch.labels is not None]
    if labels and len(labels) < len(patches):
        raise UserError(
            f"{len(labels)} of {len(patches)} faces have labels; `compat` needs them for all or none"
        )
    crops = [patch.pixels for patch in patches]
    return reference_paste(background, crops, inverses, scale, labels or None).astype(background.dtype)
