"""Metrics of fine detail: its amount and its place, compared with the ground truth.

PSNR rewards blur. *Spectral distance* compares the amount of high frequencies, but plain noise can lower it. *Local
energy correlation* compares their places, and noise lowers it. Read them together.
Images are (H, W, 3) RGB, uint8 or float in [0, 1].
"""

from collections.abc import Iterator, Sequence

import numpy as np

from diffbir_jax.console.errors import UserError
from diffbir_jax.metrics.fidelity import as_float, as_float_pair, gaussian_blur

_LUMA = np.array([0.299, 0.587, 0.114])
# Rounding to 8 bits leaves errors of power (1/255)^2 / 12 = 1.3e-6; lower power is not in the image.
_POWER_FLOOR = 1e-8
_ENERGY_FLOOR = 1e-6
_CELL = 8


def radial_log_power(luma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log10 of the radially averaged power spectrum.

    Power is |FFT|^2 / sum(window^2) of the mean-free image under a Hann window, so white noise of
    variance s^2 has power s^2 everywhere. Without the window, the jump between opposite edges would
    leak into all frequencies and hide the low power of a blurred image. A bin collects the frequencies
    whose radius in cycles per pixel rounds to one multiple of 1 / min(H, W); radii above 0.5 (the
    corners) belong to no bin.

    Args:
        luma: (H, W) in [0, 1].

    Returns:
        (frequency, log_power): the bins' centres, 0 to 0.5 cycles per pixel, and log10(mean power +
        1e-8).
    """
    height, width = luma.shape
    window = np.outer(np.hanning(height), np.hanning(width))
    power = np.abs(np.fft.fft2((luma - luma.mean()) * window)) ** 2 / np.sum(window**2)
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
    # The corners have fewer directions than the rest, so their average would not be comparable.
    inside = radius <= 0.5
    index = np.rint(radius[inside] * min(luma.shape)).astype(int)
    mean = np.bincount(index, weights=power[inside]) / np.bincount(index)
    return np.arange(len(mean)) / min(luma.shape), np.log10(mean + _POWER_FLOOR)


def spectral_distance(image: np.ndarray, reference: np.ndarray) -> float:
    """Mean |difference of log10 radially averaged luma power| over the upper half of frequencies.

    The mean runs over the bins of `radial_log_power` from 0.25 to 0.5 cycles per pixel; 1 means that
    the power of fine detail is off by a factor of 10. Luma = 0.299 R + 0.587 G + 0.114 B.

    Args:
        image: (H, W, 3), uint8 or float in [0, 1]; at least 8x8.
        reference: ground truth, like `image`.

    Returns:
        The distance, 0 for equal images.

    Raises:
        ValueError: different shapes, or an image smaller than 8x8.
    """
    a, b = _luma_pair(image, reference)
    frequency, log_a = radial_log_power(a)
    _, log_b = radial_log_power(b)
    return float(np.mean(np.abs(log_a - log_b)[frequency >= 0.25]))


def local_log_energy(luma: np.ndarray) -> np.ndarray:
    """log10(mean squared high-pass + 1e-6) of every whole 8x8 cell.

    The high-pass is the image minus its Gaussian average of sigma 1.5, with edges mirrored: that filter
    halves the amplitude at 0.125 cycles per pixel, the highest frequency that survives a reduction by
    4.

    Args:
        luma: (H, W) in [0, 1], at least 8x8.

    Returns:
        (H // 8, W // 8); rows and columns that fill no cell are left out.
    """
    high = luma - gaussian_blur(np.pad(luma, 5, mode="symmetric"))
    rows, columns = luma.shape[0] // _CELL, luma.shape[1] // _CELL
    cells = high[: rows * _CELL, : columns * _CELL].reshape(rows, _CELL, columns, _CELL)
    return np.log10(np.mean(cells**2, axis=(1, 3)) + _ENERGY_FLOOR)


def local_energy_correlation(image: np.ndarray, reference: np.ndarray) -> float:
    """Pearson correlation of `local_log_energy` between the image's luma and the ground truth's.

    Args:
        image: (H, W, 3), uint8 or float in [0, 1]; at least 8x8.
        reference: ground truth, like `image`.

    Returns:
        A number in [-1, 1], 1 for equal images; 0 if either image has the same energy in every cell.

    Raises:
        ValueError: different shapes, or an image smaller than 8x8.
    """
    a, b = (local_log_energy(luma) for luma in _luma_pair(image, reference))
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt(np.sum(a**2) * np.sum(b**2))
    # A correlation with a constant is not defined; 0 says that the places do not agree.
    return float(np.sum(a * b) / norm) if norm > 1e-12 else 0.0


def grid_ratio(images: Sequence[np.ndarray], period: int) -> float:
    """Gradient energy across the lines of a grid, relative to other places: 1 if no grid shows.

    The energy is the mean squared difference of neighbouring luma values, along both axes. Lines lie between pixels
    `period` k - 1 and `period` k. Energies are averaged over all images before the division, so images with strong
    edges count more.

    Args:
        images: (H, W, 3) each, uint8 or float in [0, 1], sides of more than `period` pixels.
        period: distance of the lines (pixels, at least 2).

    Returns:
        The ratio; 1 if there is no energy anywhere.

    Raises:
        ValueError: a period below 2, or an image that no line crosses.
    """
    if period < 2 or any(min(image.shape[:2]) <= period for image in images):
        shapes = ", ".join(str(image.shape[:2]) for image in images)
        raise UserError(
            f"a grid of period {period} in images of {shapes}: give at least 2, and larger images"
        )
    energies = [part for image in images for part in _line_energies(as_float(image) @ _LUMA, period)]
    on, off = (float(np.mean(np.concatenate(parts))) for parts in zip(*energies))
    return on / off if off > 0 else 1.0


def _line_energies(luma: np.ndarray, period: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each axis, the squared differences on the grid's lines and at other places, flat."""
    for axis in (0, 1):
        squares = np.moveaxis(np.square(np.diff(luma, axis=axis)), axis, 0)
        # Difference i lies between pixels i and i + 1, so lines are at i + 1 = period k.
        on = np.arange(1, len(squares) + 1) % period == 0
        yield squares[on].ravel(), squares[~on].ravel()


def _luma_pair(image: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = as_float_pair(image, reference)
    if a.ndim != 3 or a.shape[-1] != 3 or min(a.shape[:2]) < _CELL:
        raise UserError(f"need RGB images (H, W, 3) of at least {_CELL}x{_CELL} pixels, got {a.shape}")
    return a @ _LUMA, b @ _LUMA
