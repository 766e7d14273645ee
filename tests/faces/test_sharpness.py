"""Which faces are sharp: not blurred ones, noisy ones or small ones."""

import cv2
import numpy as np
import pytest

from diffbir_jax.faces.align import FFHQ
from diffbir_jax.faces.choice import Faces
from diffbir_jax.faces.cuts import cut_faces
from diffbir_jax.faces.find import Face
from diffbir_jax.faces.sharpness import is_sharp, noise_of
from tests.faces.pictures import fractal

# The places of an aligned face: the photo is the crop.
PLACED = np.array([[1.0, 0, 0], [0, 1.0, 0]])


def noisy(image: np.ndarray, sigma: float) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, sigma, image.shape)
    return (image + noise).round().clip(0, 255).astype(np.uint8)


def test_detail_is_sharp_and_blur_is_not() -> None:
    assert is_sharp(fractal(), PLACED)
    assert not is_sharp(cv2.GaussianBlur(fractal(), (0, 0), 4), PLACED)
    assert not is_sharp(noisy(cv2.GaussianBlur(fractal(), (0, 0), 4), 10), PLACED)


def test_small_faces_are_not_sharp_whatever_they_show() -> None:
    """The crop has three times as many pixels as the photo."""
    small = cv2.resize(fractal(), (170, 170), interpolation=cv2.INTER_AREA)
    assert not is_sharp(small, PLACED * 3)


@pytest.mark.parametrize("sigma", [2.0, 8.0, 20.0])
def test_noise_is_measured_beside_structure(sigma: float) -> None:
    smooth = cv2.GaussianBlur(fractal(), (0, 0), 4)[..., 0].astype(np.float32)
    noise = np.random.default_rng(1).normal(0, sigma, smooth.shape).astype(np.float32)
    assert noise_of(smooth + noise) == pytest.approx(sigma, rel=0.05)


def test_sharp_faces_are_left_with_a_reason() -> None:
    face = Face((150, 150, 200, 250), FFHQ, 0.9)
    cuts, left = cut_faces(fractal(), [face], Faces(skip_sharp=True), 4)
    assert (cuts, left) == ([], {0: "already sharp"})
    cuts, left = cut_faces(fractal(), [face], Faces(), 4)
    assert len(cuts) == 1 and left == {} and cuts[0].before.shape == (128, 128, 3)
