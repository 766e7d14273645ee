"""Pictures that metrics are measured on, the same to the last bit wherever they are made."""

import numpy as np
from skimage import data


def with_noise(image: np.ndarray, sigma: float, seed: int = 0) -> np.ndarray:
    noise = sigma * np.random.default_rng(seed).standard_normal(image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def softened(image: np.ndarray) -> np.ndarray:
    """Averages of 5x5 pixels, in whole numbers: no floating point that libraries may round differently."""
    windows = np.lib.stride_tricks.sliding_window_view(image.astype(np.int64), (5, 5), axis=(0, 1))
    return ((windows.sum(axis=(-2, -1)) + 12) // 25).astype(np.uint8)


def with_flat_block(image: np.ndarray) -> np.ndarray:
    """A white rectangle that covers whole blocks of NIQE's."""
    image = image.copy()
    image[90:300, 190:420] = 255
    return image


def without_halves(image: np.ndarray) -> np.ndarray:
    """No pixel's grey value (299 R + 587 G + 114 B) / 1000 ends in a half: which way those go differs by processor."""
    halves = image.astype(int) @ [299, 587, 114] % 1000 == 500
    return image ^ (halves[..., None] & [False, True, False]).astype(np.uint8)  # one level of green


ASTRONAUT, COFFEE, CHELSEA = data.astronaut(), data.coffee(), data.chelsea()
PICTURES = {
    "coffee": COFFEE,
    "chelsea": CHELSEA,
    "camera": data.camera(),
    "noisy": with_noise(ASTRONAUT, 15),
    "softened": softened(ASTRONAUT),
    "saturated": np.clip(3 * ASTRONAUT.astype(int) - 200, 0, 255).astype(np.uint8),
    "flat": with_flat_block(COFFEE),
    "grey": without_halves(COFFEE),
}
# A degraded image and what it should be.
PAIRS = {
    "noise": (with_noise(CHELSEA, 10), CHELSEA),
    "soft": (softened(COFFEE), COFFEE[2:-2, 2:-2]),
    "negative": (255 - ASTRONAUT[:200, :240], ASTRONAUT[:200, :240]),
}
