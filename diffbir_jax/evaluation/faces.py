"""Scores of whole photos by the faces that are found in the ground truth; each is the mean over these faces."""

import hashlib
from collections.abc import Callable

import numpy as np

from diffbir_jax.console.errors import UserError
from diffbir_jax.evaluation.learned import LPIPS_ALEX, load_lpips
from diffbir_jax.evaluation.metric import Metric, Setup, UnavailableError
from diffbir_jax.evaluation.networks import one_at_a_time
from diffbir_jax.faces.align import crop, similarity
from diffbir_jax.faces.find import Face, detect
from diffbir_jax.faces.identity import FILE, SFace, model_file
from diffbir_jax.models.backbones import AlexNet

Pairwise = Callable[[np.ndarray, np.ndarray], float]
# Scores one face: image, ground truth, the face of the ground truth.
PerFace = Callable[[np.ndarray, np.ndarray, Face], float]
# Images whose faces are kept: every metric asks for those of the same ones.
KEPT = 16
# The distance of points of a face that is not found, in distances of the eyes.
LOST = 1.0


class _Finder:
    """Finds faces, and keeps those of the last images."""

    def __init__(self) -> None:
        self._known: dict[str, list[Face]] = {}

    def __call__(self, image: np.ndarray) -> list[Face]:
        """The faces of (H, W, 3) uint8 pixels."""
        key = hashlib.sha256(np.ascontiguousarray(image).tobytes() + str(image.shape).encode()).hexdigest()
        if key not in self._known:
            if len(self._known) >= KEPT:
                self._known.pop(next(iter(self._known)))
            self._known[key] = detect(image)
        return self._known[key]


_finder = one_at_a_time(_Finder())


def _mean(score: PerFace) -> Pairwise:
    """The mean over the faces of the ground truth; UserError if it has none."""

    def mean(image: np.ndarray, reference: np.ndarray) -> float:
        faces = _finder(reference)
        if not faces:
            raise UserError("no face is found in the ground truth")
        return float(np.mean([score(image, reference, face) for face in faces]))

    return mean


def _load_identity(setup: Setup) -> Pairwise:
    """SFace's cosine of each face before and after, at the places of the ground truth."""
    own = None if setup.weights is None else setup.weights.expanduser() / FILE
    try:
        judge = SFace(own if own is not None and own.is_file() else model_file())
    except UserError as error:
        raise UnavailableError(str(error)) from error
    return _mean(lambda image, truth, face: judge.likeness(truth, face.points, image, face.points))


def _load_points(setup: Setup) -> Pairwise:
    return _mean(points_distance)


def points_distance(image: np.ndarray, truth: np.ndarray, face: Face) -> float:
    """The mean distance of a face's points in two images, in distances of the eyes, at most `LOST`.

    Args:
        image: (H, W, 3) uint8, in which the face is found again: the nearest one that has its centre in the box.
        truth: not read.
        face: of the ground truth.
    """
    near = [found for found in _finder(image) if face.holds(found.centre)]
    eyes = float(np.hypot(*(face.points[1] - face.points[0])))
    apart = [np.hypot(*(found.points - face.points).T).mean() / max(eyes, 1e-6) for found in near]
    return float(min([*apart, LOST]))


def _load_lpips_of_faces(setup: Setup) -> Pairwise:
    """LPIPS of aligned crops of 512 pixels, cut out of both images at the places of the ground truth."""
    lpips = load_lpips(setup, net=AlexNet(), file=LPIPS_ALEX)

    def score(image: np.ndarray, truth: np.ndarray, face: Face) -> float:
        matrix = similarity(face.points)
        return lpips(crop(image, matrix), crop(truth, matrix))

    return _mean(score)


FACES = (
    Metric("face_identity", "Identity of faces", "reference", "higher", _load_identity),
    Metric("face_points", "Points of faces", "reference", "lower", _load_points),
    Metric("face_lpips", "LPIPS of faces", "reference", "lower", _load_lpips_of_faces, files=(LPIPS_ALEX,)),
)
