"""Pictures of faces for tests: the astronaut of scikit-image (NASA, public domain)."""

import cv2
import numpy as np
from skimage import data

# Eyes, nose and corners of the mouth.
ASTRONAUT = np.array([(200.15, 101.8), (247.22, 102.56), (220.3, 124.73), (198.87, 143.18), (239.81, 143.87)])
# The part of the picture with the head, and the side of the face's box in it.
HEAD = np.s_[:300, 80:380]
BOX = 114


def astronaut() -> np.ndarray:
    """(512, 512, 3) uint8."""
    return data.astronaut()


def head(height: int) -> np.ndarray:
    """The head, with a face of about `height` pixels: (s, s, 3) uint8."""
    part = astronaut()[HEAD]
    side = round(len(part) * height / BOX)
    way = cv2.INTER_AREA if side < len(part) else cv2.INTER_CUBIC
    return cv2.resize(part, (side, side), interpolation=way)


def wall(height: int, width: int) -> np.ndarray:
    """A picture without a face: (height, width, 3) uint8."""
    y, x = np.mgrid[:height, :width]
    levels = [150 + 40 * np.sin(x / 90), 140 + 0.04 * x + 20 * np.cos(y / 50), 120 + 0.05 * y]
    return np.clip(np.stack(levels, -1), 0, 255).astype(np.uint8)


def row_of_heads(count: int, height: int) -> np.ndarray:
    """Heads beside and below each other, ten in a row."""
    one = head(height)
    side = len(one)
    picture = wall(side * -(-count // 10), side * min(count, 10))
    for at in range(count):
        y, x = side * (at // 10), side * (at % 10)
        picture[y : y + side, x : x + side] = one
    return picture


def fractal(seed: int = 0) -> np.ndarray:
    """(512, 512, 3) uint8 with equal contrast in every octave, as photos have."""
    side = 512
    rng, total = np.random.default_rng(seed), np.zeros((side, side), np.float32)
    for octave in range(8):
        coarse = rng.standard_normal((side >> octave, side >> octave)).astype(np.float32)
        total += cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    levels = (128 + 12 * total).clip(0, 255).astype(np.uint8)
    # What is finer than the crop that is looked at would count as noise.
    return np.repeat(cv2.GaussianBlur(levels, (0, 0), 0.8)[..., None], 3, axis=2)
