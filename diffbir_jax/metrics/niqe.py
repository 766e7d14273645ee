"""NIQE: distance of an image's statistics from those of natural pictures, without a ground truth.

"Making a 'Completely Blind' Image Quality Analyzer" (Mittal, Soundararajan, Bovik 2013). Lower is better. The
statistics of natural pictures in niqe.npz are the authors': mean and covariance of 36 features.
"""

import functools
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from scipy.special import gamma

from diffbir_jax.console.errors import UserError
from diffbir_jax.metrics.fidelity import as_float, crop_border, rgb_to_ycbcr

_BLOCK = 96
# Keys' cubic kernel (a = -1/2), widened to twice its width, at the eight pixels around the middle of two.
_HALVING = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256
# Neighbours in the products: to the right, below, and both diagonals.
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))


def niqe(image: np.ndarray, *, crop: int = 0, convert_to: Literal["y", "gray"] = "y") -> float:
    """Natural image quality evaluator (Mittal et al. 2013), as BasicSR's `calculate_niqe`.

    Distance of two multivariate Gaussians: one of the features of the image's 96x96 blocks, one of natural pictures.
    Rows and columns that fill no block are left out. Features without a value in a block, as in a flat one, do not
    count in the mean, and the block does not count in the covariance.

    Args:
        image: (H, W) gray or (H, W, 3) RGB, uint8 or float in [0, 1].
        crop: pixels left out along every edge.
        convert_to: reduction of a colour image before it is rounded to 8 bits: "y", the BT.601 Y channel in [16, 235],
            or "gray", 0.299 R + 0.587 G + 0.114 B in [0, 255].

    Returns:
        A number from 0, lower for more natural images: about 2 to 6 for photographs.

    Raises:
        TypeError: neither uint8 nor floating point.
        ValueError: another shape or conversion, fewer than two blocks, or fewer than two that are not flat.
    """
    luma = crop_border(_levels(image, convert_to), crop)
    rows, columns = (side // _BLOCK for side in luma.shape)
    if rows * columns < 2:
        raise UserError(
            f"NIQE needs two blocks of {_BLOCK}x{_BLOCK} pixels, so at least {_BLOCK}x{2 * _BLOCK}; with crop={crop} "
            f"the image has {luma.shape[0]}x{luma.shape[1]}"
        )
    features = _image_features(luma[: rows * _BLOCK, : columns * _BLOCK])
    whole = features[~np.isnan(features).any(axis=1)]
    if len(whole) < 2:
        raise UserError(
            f"NIQE needs two blocks that are not flat; of {len(features)} blocks {len(whole)} are not"
        )
    mean, covariance = _natural_model()
    difference = mean - np.nanmean(features, axis=0)
    # The mean of both covariances may be singular with few blocks, so a pseudo-inverse.
    precision = np.linalg.pinv((covariance + np.cov(whole, rowvar=False)) / 2)
    return float(np.sqrt(difference @ precision @ difference))


def _levels(image: np.ndarray, convert_to: str) -> np.ndarray:
    """(H, W) or (H, W, 3) -> (H, W) float64, whole numbers in [0, 255].

    Single precision before rounding, as in BasicSR: the precision decides which sums that end in a half are rounded up.
    """
    image = as_float(image).astype(np.float32)
    if image.ndim != 2 and image.shape[2:] != (3,):
        raise UserError(f"NIQE needs an image (H, W) or (H, W, 3), got {image.shape}")
    if convert_to not in ("y", "gray"):
        raise UserError(f"convert_to is {convert_to!r}; use 'y' or 'gray'")
    if image.ndim == 3 and convert_to == "y":
        image = rgb_to_ycbcr(image)[..., 0].astype(np.float32)
    elif image.ndim == 3:
        image = cv2.cvtColor(image[..., ::-1], cv2.COLOR_BGR2GRAY)
    return np.rint(image * np.float32(255)).astype(np.float64)


@functools.cache
def _natural_model() -> tuple[np.ndarray, np.ndarray]:
    """Mean (36,) and covariance (36, 36) of the features of natural pictures."""
    with np.load(Path(__file__).with_name("niqe.npz")) as stored:
        return stored["mean"], stored["covariance"]


def _image_features(luma: np.ndarray) -> np.ndarray:
    """(H, W) in [0, 255], sides multiples of 96 -> (blocks, 36): 18 features at full and 18 at half size."""
    full = _block_features(_normalised(luma), _BLOCK)
    return np.concatenate([full, _block_features(_normalised(_halve(luma)), _BLOCK // 2)], axis=1)


def _halve(luma: np.ndarray) -> np.ndarray:
    """Halve even sides as MATLAB's imresize does: antialiased bicubic, edges mirrored."""
    return _halve_rows(_halve_rows(luma).T).T


def _halve_rows(luma: np.ndarray) -> np.ndarray:
    mirrored = np.pad(luma, ((3, 3), (0, 0)), mode="symmetric")
    return np.lib.stride_tricks.sliding_window_view(mirrored, 8, axis=0)[::2] @ _HALVING


def _normalised(luma: np.ndarray) -> np.ndarray:
    """Mean-subtracted contrast-normalised coefficients, under 7x7 Gaussian windows of sigma 7/6, edges repeated.

    In single precision, as in BasicSR. The precision decides which areas are flat enough for coefficients of 0, and the
    fits count signs.
    """
    luma = luma.astype(np.float32)
    mean, mean_square = _local_mean(luma), _local_mean(luma**2)
    return (luma - mean) / (np.sqrt(np.abs(mean_square - mean**2)) + 1)


def _local_mean(image: np.ndarray) -> np.ndarray:
    mean = cv2.GaussianBlur(image.astype(np.float64), (7, 7), 7 / 6, borderType=cv2.BORDER_REPLICATE)
    return mean.astype(np.float32)


def _block_features(coefficients: np.ndarray, size: int) -> np.ndarray:
    """Shape and scale of the coefficients, and shape, mean and both scales of their products with four neighbours.

    Args:
        coefficients: (H, W), sides multiples of `size`.
        size: side of a block; neighbours across its edge are those of the opposite edge.

    Returns:
        (blocks, 18); NaN if a fit lacks values of one sign.
    """
    rows, columns = (side // size for side in coefficients.shape)
    blocks = coefficients.reshape(rows, size, columns, size).swapaxes(1, 2).reshape(-1, size, size)
    blocks = blocks.astype(np.float64)
    shape, left, right = _fit(blocks)
    features = [shape, (left + right) / 2]
    for shift in _SHIFTS:
        shape, left, right = _fit(blocks * np.roll(blocks, shift, axis=(1, 2)))
        features += [shape, (right - left) * gamma(2 / shape) / gamma(1 / shape), left, right]
    return np.stack(features, axis=1)


def _fit(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Asymmetric generalised Gaussians by moment matching: (blocks, h, w) -> shape, left and right scale of each.

    The shape is searched in steps of 0.001, as by the authors. Without values of both signs the scales are NaN and the
    shape is 0.2, the first value of the search.
    """
    left, right = (_deviation(blocks, sign) for sign in (-1, 1))
    ratio = left / right
    wanted = np.abs(blocks).mean(axis=(1, 2)) ** 2 / np.maximum(np.mean(blocks**2, axis=(1, 2)), 1e-300)
    wanted *= (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    shapes, ratios = _shapes()
    # The ratio rises with the shape, so the nearest value is one of two neighbours.
    above = np.clip(np.searchsorted(ratios, wanted), 1, len(ratios) - 1)
    nearest = above - (wanted - ratios[above - 1] <= ratios[above] - wanted)
    shape = shapes[np.where(np.isnan(wanted), 0, nearest)]
    scale = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return shape, left * scale, right * scale


def _deviation(blocks: np.ndarray, sign: int) -> np.ndarray:
    """Root mean square of the values of one sign in each block; NaN if there are none."""
    of_sign = sign * blocks > 0
    count = of_sign.sum(axis=(1, 2))
    total = np.sum(blocks**2 * of_sign, axis=(1, 2))
    return np.sqrt(np.where(count > 0, total / np.maximum(count, 1), np.nan))


@functools.cache
def _shapes() -> tuple[np.ndarray, np.ndarray]:
    """Shapes from 0.2 to 10, and (E|x|)^2 / E x^2 of a generalised Gaussian of each."""
    shapes = np.arange(200, 10001) / 1000
    return shapes, gamma(2 / shapes) ** 2 / (gamma(1 / shapes) * gamma(3 / shapes))
