"""Blur kernels and their random draws: the seven shapes of Real-ESRGAN's training (Wang et al., 2021).

All kernels are (size, size) float64, sum to 1, and are centred on the middle pixel.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import j1

from diffbir_jax.data.example import DataError
from diffbir_jax.data.ranges import (
    Range,
    check_around_one,
    check_choices,
    check_probabilities,
    check_ranges,
    check_shares,
    choose,
    happens,
    integer,
    uniform,
)

Parameters = dict[str, float | int | str]
KINDS = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")


def gaussian_kernel(size: int, sigma_x: float, sigma_y: float, theta: float = 0.0) -> np.ndarray:
    """Return a rotated bivariate Gaussian.

    Args:
        size: side of the kernel (pixels, odd).
        sigma_x: standard deviation along the first principal axis (pixels, > 0).
        sigma_y: standard deviation along the second.
        theta: rotation of the axes (radians).
    """
    return _normalised(np.exp(-0.5 * _distances(size, sigma_x, sigma_y, theta)))


def generalized_kernel(
    size: int, sigma_x: float, sigma_y: float, theta: float = 0.0, beta: float = 1.0
) -> np.ndarray:
    """Return a generalized Gaussian, exp(-d^beta / 2) of the squared distance d in units of the deviations.

    Args:
        size: side of the kernel (pixels, odd).
        sigma_x: scale along the first principal axis (pixels, > 0).
        sigma_y: scale along the second.
        theta: rotation of the axes (radians).
        beta: shape (> 0); 1 is the Gaussian, smaller values have heavier tails.
    """
    return _normalised(np.exp(-0.5 * _distances(size, sigma_x, sigma_y, theta) ** beta))


def plateau_kernel(
    size: int, sigma_x: float, sigma_y: float, theta: float = 0.0, beta: float = 1.0
) -> np.ndarray:
    """Return a kernel with a flat top, 1 / (1 + d^beta) of the squared distance d in units of the deviations.

    Arguments as in `generalized_kernel`. A larger `beta` makes the edge steeper.
    """
    return _normalised(1 / (1 + _distances(size, sigma_x, sigma_y, theta) ** beta))


def sinc_kernel(cutoff: float, size: int, pad_to: int = 0) -> np.ndarray:
    """Return the ideal circular low-pass filter, truncated to the kernel's side. It rings like sharpening and codecs.

    Args:
        cutoff: highest frequency that passes (radians per pixel, 0..pi).
        size: side of the kernel (pixels, odd).
        pad_to: pad with zeros to this side; no padding if it is not above `size`.
    """
    middle = size // 2
    axis = np.arange(middle + 1.0)
    radius = np.hypot(axis[:, None], axis)
    radius[0, 0] = 1.0  # avoids 0 / 0; the limit is set below
    # One quadrant is enough, because the kernel is symmetric; Bessel functions are slow.
    quadrant = cutoff * j1(cutoff * radius) / (2 * np.pi * radius)
    quadrant[0, 0] = cutoff**2 / (4 * np.pi)
    away = np.abs(np.arange(-middle, middle + 1))
    kernel = _normalised(quadrant[away[:, None], away])
    return np.pad(kernel, (pad_to - size) // 2) if pad_to > size else kernel


@dataclass(frozen=True)
class Kernels:
    """Ranges of a kernel's parameters; the defaults are those of CodeFormer (Zhou et al., 2022).

    Attributes:
        size: side (pixels, odd), or (lowest, highest), from which all odd sides are equally likely; None fits the side
            to three standard deviations.
        kinds: kinds from `KINDS`; kinds that end in "_iso" (and "iso") have one deviation and no rotation.
        probabilities: probability of each kind.
        sigma: standard deviation along an axis (pixels, > 0).
        theta: rotation (radians).
        beta_generalized: shape of the generalized kinds (> 0): half of the draws are below 1, half above.
        beta_plateau: the same for the plateau kinds.
        sinc_probability: share of `sinc_kernel`s in place of these kinds. Their cutoff is from pi/3 to pi; from pi/5 if
            the size is 13 or more.

    Raises:
        DataError: an invalid range, probabilities that do not sum to 1, an unknown kind, or an even size.
    """

    size: int | tuple[int, int] | None = 41
    kinds: tuple[str, ...] = ("iso", "aniso")
    probabilities: tuple[float, ...] = (0.5, 0.5)
    sigma: Range = (0.1, 12.0)
    theta: Range = (-np.pi, np.pi)
    beta_generalized: tuple[float, float] = (0.5, 4.0)
    beta_plateau: tuple[float, float] = (1.0, 2.0)
    sinc_probability: float = 0.0

    def __post_init__(self) -> None:
        check_choices(self, "kinds", KINDS)
        check_shares(self, "probabilities", self.kinds)
        check_ranges(self, sigma=(1e-3, 1e3), theta=(-10, 10))
        check_around_one(self, "beta_generalized")
        check_around_one(self, "beta_plateau")
        check_probabilities(self, "sinc_probability")
        if self.size is not None:
            check_sizes(self)
        elif self.sinc_probability:
            raise DataError("Kernels.size is None, fitted to sigma, which sinc kernels have not; give a size")


def draw_kernel(rng: np.random.Generator, config: Kernels) -> tuple[np.ndarray, Parameters]:
    """Draw a kernel.

    Args:
        rng: the random generator.
        config: the ranges.

    Returns:
        (size, size) float64, and the drawn parameters: `kind` and `size`; for "sinc" `cutoff`; for other kinds
        `sigma_x`, for anisotropic ones also `sigma_y` and `theta`, and `beta` if the kind has one.
    """
    size = None if config.size is None else draw_size(rng, config.size)
    if size is not None and happens(rng, config.sinc_probability):
        cutoff = rng.uniform(np.pi / 3 if size < 13 else np.pi / 5, np.pi)
        return sinc_kernel(cutoff, size), {"kind": "sinc", "size": size, "cutoff": cutoff}
    sigma_x, sigma_y = uniform(rng, config.sigma), uniform(rng, config.sigma)
    kind = choose(rng, config.kinds, config.probabilities)
    theta = uniform(rng, config.theta)
    drawn: Parameters = {"kind": kind, "sigma_x": sigma_x}
    if kind.endswith("aniso"):
        drawn |= {"sigma_y": sigma_y, "theta": theta}
    else:
        # Isotropic kinds have one deviation; the numbers drawn for the second axis are not used.
        sigma_y, theta = sigma_x, 0.0
    # Three deviations hold nearly all of a Gaussian's weight.
    drawn["size"] = size = size or 2 * int(np.ceil(3 * max(sigma_x, sigma_y))) + 1
    if kind in ("iso", "aniso"):
        return gaussian_kernel(size, sigma_x, sigma_y, theta), drawn
    generalized = kind.startswith("generalized")
    beta = drawn["beta"] = _beta(rng, config.beta_generalized if generalized else config.beta_plateau)
    shape = generalized_kernel if generalized else plateau_kernel
    return shape(size, sigma_x, sigma_y, theta, beta), drawn


def draw_size(rng: np.random.Generator, size: int | tuple[int, int]) -> int:
    """Draw an odd side from (lowest, highest), both odd and included; a single number is returned unchanged."""
    return size if isinstance(size, int) else 2 * integer(rng, (size[0] // 2, size[1] // 2)) + 1


def check_sizes(owner: object) -> None:
    """Check a field `size`: one or two odd sides of kernels, 1 to 999.

    Raises:
        DataError: the field holds something else.
    """
    check_ranges(owner, size=(1, 999))
    size: object = vars(owner)["size"]
    if not all(isinstance(n, int) and n % 2 for n in (size if isinstance(size, tuple) else (size,))):
        raise DataError(f"{type(owner).__name__}.size is {size!r}; give an odd number of pixels, or two")


def _beta(rng: np.random.Generator, ends: tuple[float, float]) -> float:
    """Draw below 1 and above 1 with probability 1/2 each, for any distance of the ends from 1."""
    return rng.uniform(ends[0], 1) if rng.random() < 0.5 else rng.uniform(1, ends[1])


def _distances(size: int, sigma_x: float, sigma_y: float, theta: float) -> np.ndarray:
    """Return squared distances from the middle along the rotated axes, in units of their deviations."""
    axis = np.arange(size) - (size - 1) / 2
    x, y = axis, axis[:, None]
    c, s = np.cos(theta), np.sin(theta)
    return ((c * x + s * y) / sigma_x) ** 2 + ((c * y - s * x) / sigma_y) ** 2


def _normalised(kernel: np.ndarray) -> np.ndarray:
    return kernel / kernel.sum()
