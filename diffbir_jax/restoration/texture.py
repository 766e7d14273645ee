"""Fine texture that stage 1 took for noise comes back: the local statistics of Lee (1980).

A network that minimises squared errors smooths what it cannot tell from noise. Noise is about as strong everywhere;
texture is not. So where more was removed than where least was, the surplus is texture.

J.-S. Lee, Digital image enhancement and noise filtering by use of local statistics. PAMI 2 (1980).
"""

import cv2
import numpy as np

from diffbir_jax.imaging.canvas import from_depth

# Energies are means over blocks of so many pixels, smoothed over so many blocks (standard deviation).
BLOCK, WINDOW = 4, 1.5
# Noise is this percentile of the local energies, times a factor of the preset, plus rounding.
FLATTEST, ROUNDING = 5.0, 1.0 / 255.0**2
# Blocks with gradients below this energy in one direction show no noise: borders, filled areas, clipped skies. They
# are left out if they form an area of at least so many blocks in each direction, or a whole row or column. Smaller
# groups count: they lie in smooth parts of clean photos, and show that there is no noise.
DRAWN, AREA = 0.5 / 255.0**2, 5
# Rows at a time: images may be large.
ROWS = 64 * BLOCK


def texture_share(energy: np.ndarray, seen: np.ndarray, factor: float) -> np.ndarray:
    """Which share of what was removed is texture: max(0, 1 - noise / local energy).

    Args:
        energy: (h, w) float32, mean squares of what was removed from the mean of the channels, values in [0, 1].
        seen: (h, w) bool, where noise would be seen. It is measured there, and in small gaps between.
        factor: on the energy of the flattest parts: by how much noise of one image varies.

    Returns:
        (h, w) float32 in [0, 1].
    """
    # Erosion leaves out the borders of areas without noise: what the network changes there is no noise. The mean is
    # over seen blocks alone, or blocks next to these areas would look quieter.
    seen = cv2.erode(1.0 - _areas(~seen), np.ones((3, 3)), borderType=cv2.BORDER_REPLICATE)
    weight = cv2.GaussianBlur(seen, (0, 0), WINDOW)
    local = cv2.GaussianBlur(energy, (0, 0), WINDOW)
    among = cv2.GaussianBlur(energy * seen, (0, 0), WINDOW)[seen > 0] / weight[seen > 0]
    quiet = float(np.percentile(among, FLATTEST)) if len(among) else float(local.max())
    noise = factor * quiet + ROUNDING
    return np.maximum(0.0, 1.0 - noise / np.maximum(local, noise))


def with_texture(clean: np.ndarray, image: np.ndarray, share: float, factor: float) -> np.ndarray:
    """Give a stage-1 image back the texture of its input.

    Args:
        clean: (H, W, 3) float32 or float16 in about [0, 1]; it is changed in place.
        image: (H, W, 3) the input: bytes, or float32 in about [0, 1].
        share: of the texture that comes back, 0 to 1.
        factor: see `texture_share`.

    Returns:
        `clean`.
    """
    height, width = clean.shape[:2]
    small = (-(-height // BLOCK), -(-width // BLOCK))
    energy, drawn = np.empty(small, np.float32), np.empty(small, np.float32)
    for top in range(0, height, ROWS):
        part = slice(top // BLOCK, (top + ROWS) // BLOCK)
        removed = _removed(clean, image, top).mean(axis=-1)
        energy[part] = _blocks(removed * removed, energy[part].shape)
        drawn[part] = _least_gradient(from_depth(image[top : top + ROWS]).mean(axis=-1), energy[part].shape)
    back = cv2.resize(
        share * texture_share(energy, drawn > DRAWN, factor), (width, height), interpolation=cv2.INTER_LINEAR
    )
    for top in range(0, height, ROWS):
        clean[top : top + ROWS] += back[top : top + ROWS, :, None] * _removed(clean, image, top)
    return clean


def _areas(empty: np.ndarray) -> np.ndarray:
    """Where empty blocks form an area, a whole row or a whole column: (h, w) float32, 1 or 0."""
    lines = empty.all(axis=0) | empty.all(axis=1, keepdims=True)
    opened = cv2.morphologyEx(
        empty.astype(np.float32), cv2.MORPH_OPEN, np.ones((AREA, AREA)), borderType=cv2.BORDER_REPLICATE
    )
    return np.maximum(lines, opened)


def _blocks(values: np.ndarray, sides: tuple[int, ...]) -> np.ndarray:
    """The means over blocks."""
    return cv2.resize(values, sides[::-1], interpolation=cv2.INTER_AREA)


def _least_gradient(luma: np.ndarray, sides: tuple[int, ...]) -> np.ndarray:
    """The gradient energy of blocks along the axis where it is lower: noise has gradients along both.

    The last row of a strip counts as equal to the next one, which takes a quarter of one gradient of its blocks.
    """
    energies = [
        _blocks(np.square(np.diff(luma, axis=axis, append=luma.take([-1], axis))), sides) for axis in (0, 1)
    ]
    return np.minimum(*energies)


def _removed(clean: np.ndarray, image: np.ndarray, top: int) -> np.ndarray:
    return from_depth(image[top : top + ROWS]) - clean[top : top + ROWS].astype(np.float32)
