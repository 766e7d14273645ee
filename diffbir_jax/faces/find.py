"""Finding faces: YuNet at several sizes of the photo, coarse ones first, then a closer look at each face.

W. Wu, H. Peng and S. Yu, "YuNet: A Tiny Millisecond-level Face Detector", 2023. OpenCV runs the network.
"""

import functools
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, overload

import cv2
import numpy as np

from diffbir_jax.console.errors import UserError
from diffbir_jax.faces.affine import check_image, invert, moved, resizing
from diffbir_jax.imaging.bytes import to_depth
from diffbir_jax.imaging.canvas import from_depth
from diffbir_jax.imaging.checks import check_range
from diffbir_jax.imaging.opencv import ERRORS, logged
from diffbir_jax.restoration.pictures import Picture, is_one, take

MODEL = Path(__file__).parent / "yunet" / "face_detection_yunet_2023mar_int8bq.onnx"
# The longest sides at which a photo is looked at. YuNet finds faces of 10 to 300 pixels.
SIDES = (320, 640, 1280, 2560)
# Small photos are enlarged to this longest side: points of small faces are more exact there.
ENLARGED = 1280
SCORE, OVERLAP, TOP = 0.6, 0.3, 5000
# The least side that the network sees: twice the distance of its coarsest features.
LEAST = 64


class Face(NamedTuple):
    """A face in a photo; pixels' centres lie at integers.

    Attributes:
        box: x and y of the upper left corner, width, height, in pixels of the photo. It may reach beyond the photo.
        points: (5, 2) float64, (x, y): eyes, nose, corners of the mouth. In the upright face the left ones come first.
        score: confidence of the detector, 0 to 1.
    """

    box: tuple[float, float, float, float]
    points: np.ndarray
    score: float

    @property
    def size(self) -> float:
        """Side of a square of the area of the box."""
        return float((self.box[2] * self.box[3]) ** 0.5)

    @property
    def centre(self) -> tuple[float, float]:
        """Centre of the box."""
        x, y, width, height = self.box
        return x + width / 2, y + height / 2

    def holds(self, point: tuple[float, float]) -> bool:
        """Whether a point lies in the box."""
        x, y, width, height = self.box
        return x <= point[0] <= x + width and y <= point[1] <= y + height


class Detector(Protocol):
    """What finds faces."""

    def detect(self, image: np.ndarray) -> list[Face]:
        """Return the faces of (H, W, 3) RGB uint8 pixels, in any order."""
        ...


class YuNet:
    """YuNet at the sizes of the image that it is given; may be shared by threads."""

    def __init__(self, model: str | Path = MODEL, score: float = SCORE):
        """Load the network.

        Args:
            model: ONNX file.
            score: faces of a lower score are not reported, 0 to 1.

        Raises:
            UserError: the file is missing, or this OpenCV cannot read it.
        """
        if not Path(model).is_file():
            raise UserError(f"no face detector {model}; give the path of YuNet's ONNX file")
        with logged(ERRORS):  # OpenCV 5 warns of targets, though none was asked for
            try:
                self._net = cv2.FaceDetectorYN.create(str(model), "", (320, 320), score, OVERLAP, TOP)
            except (cv2.error, AttributeError) as error:
                raise UserError(
                    f"OpenCV {cv2.__version__} cannot read the face detector {model}; install OpenCV 4.11 or newer, "
                    "or give YuNet's ONNX file"
                ) from error
        self._lock = threading.Lock()

    def detect(self, image: np.ndarray) -> list[Face]:
        """Return the faces of (H, W, 3) RGB uint8 pixels, of the highest score first."""
        blue_first = _at_least(np.ascontiguousarray(image[..., ::-1]))
        with self._lock:
            self._net.setInputSize((blue_first.shape[1], blue_first.shape[0]))
            rows = self._net.detect(blue_first)[1]
        return [] if rows is None else [_face(row) for row in np.asarray(rows, np.float64)]


def _at_least(image: np.ndarray) -> np.ndarray:
    """The image, continued at the right and below to `LEAST` pixels: of narrower ones OpenCV 4 gives random faces."""
    down, across = (max(0, LEAST - side) for side in image.shape[:2])
    return cv2.copyMakeBorder(image, 0, down, 0, across, cv2.BORDER_REPLICATE) if down or across else image


@functools.lru_cache(maxsize=1)
def yunet() -> YuNet:
    """The shipped detector, loaded once."""
    return YuNet()


@overload
def detect(pictures: Picture, detector: Detector | None = None, *, closer: bool = True) -> list[Face]: ...
@overload
def detect(
    pictures: Iterable[Picture], detector: Detector | None = None, *, closer: bool = True
) -> list[list[Face]]: ...
def detect(
    pictures: Picture | Iterable[Picture], detector: Detector | None = None, *, closer: bool = True
) -> list[Face] | list[list[Face]]:
    """Find the faces of a photo, or of several.

    Args:
        pictures: what `diffbir_jax.restore` takes: Pillow's image, an array (H, W) or (H, W, C) with 1 to 4 channels
            (uint8, uint16, or floats in [0, 1]), the path of an image file, or a list of these. Photos are turned
            upright as their EXIF says, and where they are transparent nothing is seen.
        detector: by default YuNet, which comes with the package.
        closer: look at each face again, upright and at the size that suits the detector. It takes a few
            tenths of a second per face; without it the points of turned faces are tilted towards the upright.

    Returns:
        the faces from left to right, in pixels of the upright photo; none if there are none. For a list a list each.

    Raises:
        UserError: a picture of another kind.
        ImageFileError: a file cannot be read.
    """
    if not is_one(pictures):
        return [_faces_of(each, detector, closer) for each in pictures]
    return _faces_of(pictures, detector, closer)


def _faces_of(picture: Picture, detector: Detector | None, closer: bool) -> list[Face]:
    # Here, since a closer look uses the types above.
    from diffbir_jax.faces.closer import look_closer

    pixels = _seen(picture)
    detector = detector or yunet()
    found = _search(pixels, detector, _sides(max(pixels.shape[:2])))
    if closer:
        found = _distinct(sorted((look_closer(pixels, face, detector) for face in found), key=_by_score))
    return sorted(found, key=lambda face: face.centre)


def _seen(picture: Picture) -> np.ndarray:
    """The colours of a picture as (H, W, 3) uint8."""
    pixels = take(picture).pixels
    check_image(pixels, "photo")
    check_range(pixels)
    return as_bytes(pixels)


def _by_score(face: Face) -> float:
    return -face.score


def _face(row: np.ndarray) -> Face:
    """A face of a row of YuNet: x, y, width, height, five points, score."""
    x, y, width, height = map(float, row[:4])
    return Face((x, y, width, height), row[4:14].reshape(5, 2), float(row[14]))


def as_bytes(image: np.ndarray) -> np.ndarray:
    """The colours of a picture as (H, W, 3) uint8."""
    check_image(image, "photo")
    samples = image[..., None] if image.ndim == 2 else image
    colours = samples[..., :3] if samples.shape[2] > 2 else np.repeat(samples[..., :1], 3, axis=2)
    return colours if colours.dtype == np.uint8 else to_depth(from_depth(colours), np.uint8)


def _sides(longest: int) -> list[int]:
    """The longest sides at which a photo is looked at."""
    return [side for side in SIDES if side <= max(longest, ENLARGED)]


def _search(pixels: np.ndarray, detector: Detector, sides: Iterable[int]) -> list[Face]:
    """Find faces at several sizes, the smallest size first: a large face falls apart in large pictures."""
    found: list[Face] = []
    for side in sides:
        more = sorted(_at_side(pixels, detector, side), key=_by_score)
        found = _distinct([*found, *more])
    return found


def _distinct(faces: Sequence[Face]) -> list[Face]:
    """The faces without those that are found again: whose centre lies in an earlier one, or the other way round."""
    kept: list[Face] = []
    for face in faces:
        if _plausible(face) and not any(a.holds(face.centre) or face.holds(a.centre) for a in kept):
            kept.append(face)
    return kept


def _plausible(face: Face) -> bool:
    """Whether the points can be a face's: all apart, the mouth on the same side of both eyes."""
    left, right, _, *mouth = face.points
    across = right - left
    sides = [across[0] * (corner - left)[1] - across[1] * (corner - left)[0] for corner in mouth]
    return min(sides) > 0 and face.size > 0


def _at_side(pixels: np.ndarray, detector: Detector, side: int) -> list[Face]:
    """Find the faces of a photo that is resized so that its longest side is `side`."""
    height, width = pixels.shape[:2]
    factor = side / max(height, width)
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    small = cv2.resize(pixels, size[::-1], interpolation=way)
    back = invert(resizing((height, width), size))
    return [_moved_face(face, back) for face in detector.detect(small)]


def _moved_face(face: Face, matrix: np.ndarray) -> Face:
    """The face in another frame; the map keeps upright boxes upright."""
    x, y, width, height = face.box
    (left, top), (right, bottom) = moved(matrix, np.array([[x, y], [x + width, y + height]]))
    box = (float(left), float(top), float(right - left), float(bottom - top))
    return Face(box, moved(matrix, face.points), face.score)
