"""Face identity similarity: the cosine between the embeddings of two images by ArcFace, a face recognition network.

The network is a local ONNX file, run by OpenCV; no package contains one. Deng et al., "ArcFace: Additive Angular
Margin Loss for Deep Face Recognition", 2019.
"""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from diffbir_jax.console.errors import UserError
from diffbir_jax.evaluation.metric import Metric, Setup, UnavailableError
from diffbir_jax.evaluation.networks import one_at_a_time, weights_file

FILE = "arcface.onnx"
REMEDY = (
    "Put there, under this name, an ArcFace network of 112x112 aligned RGB faces in [-1, 1] in ONNX format, such as "
    "w600k_r50.onnx of InsightFace's buffalo_l (non-commercial research only)"
)
# Eyes, nose and corners of the mouth, as x + iy: their positions in FFHQ's alignment in 512x512 pixels, and in
# ArcFace's in 112x112.
FFHQ_SIDE, ARCFACE_SIDE = 512, 112
FFHQ = np.array(
    [192.98 + 239.95j, 318.90 + 240.19j, 256.63 + 314.02j, 201.26 + 371.41j, 313.09 + 371.15j], np.complex128
)
ARCFACE = np.array(
    [38.29 + 51.70j, 73.53 + 51.50j, 56.03 + 71.74j, 41.55 + 92.37j, 70.73 + 92.20j], np.complex128
)


def aligned(image: np.ndarray) -> np.ndarray:
    """Cut ArcFace's input from a face in FFHQ's alignment: rotated, scaled and shifted by least squares.

    No landmarks are detected: for a restored face that hides them, detection would choose another part of the image.

    Args:
        image: (S, S, 3) uint8.

    Returns:
        (112, 112, 3) uint8.

    Raises:
        ValueError: the image is not square.
    """
    height, width = image.shape[:2]
    if height != width:
        raise UserError(
            f"identity: {height}x{width} given; faces must be square, aligned as FFHQ and CelebA-HQ are"
        )
    # The constants are for 512 pixels; faces of any side are scaled.
    points = FFHQ * (height / FFHQ_SIDE)
    # A similarity transform is z -> a z + b in the complex plane.
    (a, b), *_ = np.linalg.lstsq(np.stack([points, np.ones(5)], 1), ARCFACE, rcond=None)
    matrix = np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])
    return cv2.warpAffine(image, matrix, (ARCFACE_SIDE, ARCFACE_SIDE))


def _load(setup: Setup) -> Callable[[np.ndarray, np.ndarray], float]:
    net = _read(weights_file(setup, FILE, REMEDY))

    def embedding(image: np.ndarray) -> np.ndarray:
        half = 127.5
        net.setInput(cv2.dnn.blobFromImage(aligned(image), 1 / half, mean=(half, half, half)))
        vector = net.forward().reshape(-1).astype(np.float64)
        # Unit length: the product of two embeddings is their cosine.
        return vector / np.linalg.norm(vector)

    return one_at_a_time(lambda image, reference: float(embedding(image) @ embedding(reference)))


def _read(path: Path) -> cv2.dnn.Net:
    try:
        return cv2.dnn.readNetFromONNX(str(path))
    except cv2.error as error:
        raise UnavailableError(f"{path} is no network that OpenCV can read. {REMEDY}") from error


IDENTITY = (Metric("identity", "Identity", "reference", "higher", _load, files=(FILE,)),)
