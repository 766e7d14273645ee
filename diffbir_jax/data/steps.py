"""Steps of a degradation: operations with random parameters, drawn from ranges for each image.

A step is a frozen dataclass of ranges. It is called as `step(image, context)` with an (H, W, 3) float32 image in about
[0, 1], and returns another image. Its constructor raises `DataError` for invalid ranges.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from diffbir_jax.data import operations, ranges
from diffbir_jax.data.kernels import Kernels, check_sizes, draw_kernel, draw_size, sinc_kernel
from diffbir_jax.data.operations import MODES
from diffbir_jax.data.ranges import Range, check_probabilities, check_ranges, happens, uniform
from diffbir_jax.data.sensor import sensor_noise

# The drawn parameters, in order: "blur.sigma_x", "resize.scale", ....
Record = dict[str, float | int | str | bool]


@dataclass(frozen=True)
class Context:
    """The inputs of a step beside the image.

    Attributes:
        rng: the only source of random numbers.
        target: (height, width) of the final result, not rounded; some sizes are relative to it.
        record: steps write their drawn parameters here.
        name: the step's name in the record; "" writes nothing.
    """

    rng: np.random.Generator
    target: tuple[float, float]
    record: Record = field(default_factory=dict)
    name: str = ""

    def note(self, **drawn: float | int | str | bool) -> None:
        """Record the parameters that a step drew."""
        if self.name:
            # A name is part of every key, because a step may occur several times.
            self.record.update({f"{self.name}.{key}": value for key, value in drawn.items()})

    def named(self, name: str) -> "Context":
        """The context of the step `name`."""
        return Context(self.rng, self.target, self.record, name)


class Step(Protocol):
    """The interface of all steps."""

    def __call__(self, image: np.ndarray, context: Context) -> np.ndarray:
        """Return a new image; the input is not modified."""
        ...


# Steps with their names in the record and in configs.
Steps = tuple[tuple[str, Step], ...]


@dataclass(frozen=True)
class Blur(Kernels):
    """Filter with a kernel drawn from the ranges of `Kernels`."""

    def __call__(self, image: np.ndarray, context: Context) -> np.ndarray:
        """Blur."""
        kernel, drawn = draw_kernel(context.rng, self)
        context.note(**drawn)
        return operations.filter2d(image, kernel)


@dataclass(frozen=True)
class Sinc:
    """Filter with an ideal low-pass, which causes ringing: the last filter of Real-ESRGAN.

    Attributes:
        size: side of the kernel (pixels, odd), or (lowest, highest).
        cutoff: highest frequency that passes (radians per pixel).
    """

    size: int | tuple[int, int] = (7, 21)
    cutoff: Range = (np.pi / 3, np.pi)

    def __post_init__(self) -> None:
        check_sizes(self)
        check_ranges(self, cutoff=(0.01, np.pi))

    def __call__(self, image: np.ndarray, context: Context) -> np.ndarray:
        """Filter."""
        size, cutoff = draw_size(context.rng, self.size), uniform(context.rng, self.cutoff)
        context.note(size=size, cutoff=cutoff)
        return operations.filter2d(image, sinc_kernel(cutoff, size))


@dataclass(frozen=True)
class Downscale:
    """Divide both sides by a factor; they are rounded down, to at least one pixel.

    Attributes:
        factor: the divisor (at least 1).
        modes: interpolations (`operations.MODES`), equally likely.
    """

    factor: Range = (1.0, 12.0)
    modes: tuple[str, ...] = ("bilinear",)

    def __post_init__(self) -> None:
        check_ranges(self, factor=(1, 1e4))
        ranges.check_choices(self, "modes", MODES)

    def __call__(self, image: np.ndarray, context: Context) -> np.ndarray:
        """Reduce."""
        factor, mode = uniform(context.rng, self.factor), ranges.choose(context.rng, self.modes)
        context.note(factor=factor, mode=mode)
        return operations.resize(image, _pixels(image.shape[:2], 1 / factor), mode)


@dataclass(frozen=True)
class Resize:
    """Enlarge, reduce or keep the size.

    Attributes:
        scale: smallest and largest factor, around 1. Sides are rounded down, to at least one pixel.
        probabilities: probabilities of enlarging (a factor above 1), reducing (below 1) and keeping.
        modes: interpolations (`operations.MODES`), equally likely.
        of_target: True: the factor applies to the target's sides. False: to the image's sides.
    """

    scale: tuple[float, float] = (0.15, 1.5)
    probabilities: tuple[float, ...] = (0.2, 0.7, 0.1)
    modes: tuple[str, ...] = MODES
    of_target: bool = False

    def __post_init__(self) -> None:
        ranges.check_around_one(self, "scale")
        ranges.check_flags(self, "of_target")
        ranges.check_shares(self, "probabilities", ("up", "down", "keep"))
        ranges.check_choices(self, "modes", MODES)

    @classmethod
    def to_target(cls, modes: tuple[str, ...] = MODES) -> "Resize":
        """Return the step that resizes to the target's size."""
        return cls((1.0, 1.0), (0.0, 0.0, 1.0), modes, of_target=True)

    def __call__(self, image: np.ndarray, context: Context) -> np.ndarray:
        """Resize."""
        low, high = self.scale
        ends: tuple[Range, ...] = ((1.0, high), (low, 1.0), 1.0)
        # First up, down or keep, then a factor: both directions are equally covered.
        scale = uniform(context.rng, ranges.choose(context.rng, ends, self.probabilities))
        mode = ranges.choose(context.rng, self.modes)
        context.note(scale=scale, mode=mode)
        sides = context.target if self.of_target else image.shape[:2]
        return operations.resize(image, _pixels(sides, scale), mode)


@dataclass(frozen=True)
class GaussianNoise:
    """Add Gaussian noise.

    Attributes:
        sigma: standard deviation (8-bit levels, 0..255).
        gray_probability: share of noise that is equal in the three channels.
    """

    sigma: Range = (0.0, 15.0)
    gray_probability: float = 0.0

    def __post_init__(self) -> None:
        check_ranges(self, sigma=(0, 255))
        check_probabilities(self, "gray_probability")

    def __call__(self, image: np.ndarray, context: Context) -> np.ndarray:
        """Add noise."""
        sigma, gray = uniform(context.rng, self.sigma), happens(context.rng, self.gray_probability)
        context.note(sigma=sigma, gray=gray)
        return operations.gaussian_noise(image, context.rng, sigma, gray)


@dataclass(frozen=True)
class PoissonNoise:
    """Add noise that grows with the brightness, see `operations.poisson_noise`.

    Attributes:
        scale: factor of the noise (0..100).
        gray_probability: share of noise that is equal in the three channels.
    """

    scale: Range = (0.05, 3.0)
    gray_probability: float = 0.4

    def __post_init__(self) -> None:
        check_ranges(self, scale=(0, 100))
        check_probabilities(self, "gray_probability")

    def __call__(self, image: np.ndarray, context: Context) -> np.ndarray:
        """Add noise."""
        scale, gray = uniform(context.rng, self.scale), happens(context.rng, self.gray_probability)
        context.note(scale=scale, gray=gray)
        return operations.poisson_noise(image, context.rng, scale, gray)


@dataclass(frozen=True)
class SensorNoise:
    """Add noise in raw light, see `sensor.sensor_noise`; the defaults are those of Brooks et al. (2019).

    Attributes:
        shot: variance per unit of light (raw values in [0, 1], > 0), drawn log-uniformly. The variance in the dark
            follows from it: its logarithm is normal with mean 2.18 log(shot) + 1.20 and deviation 0.26.
        red_gain: white balance of red (1..10).
        blue_gain: white balance of blue.
        mosaic_probability: share of images with a sensor whose pixels see one colour each.
    """

    shot: Range = (1e-4, 0.012)
    red_gain: Range = (1.9, 2.4)
    blue_gain: Range = (1.5, 1.9)
    mosaic_probability: float = 1.0

    def __post_init__(self) -> None:
        check_ranges(self, shot=(1e-8, 1), red_gain=(1, 10), blue_gain=(1, 10))
        check_probabilities(self, "mosaic_probability")

    def __call__(self, image: np.ndarray, context: Context) -> np.ndarray:
        """Add noise."""
        rng = context.rng
        shot = ranges.log_uniform(rng, self.shot)
        # The relation of read noise to shot noise that Brooks et al. measured on real cameras.
        read = float(np.exp(rng.normal(2.18 * np.log(shot) + 1.20, 0.26)))
        # The brightest light is exposed to about 0.8 of the range. A gain of at least 1 never clips light.
        exposure = 1 / min(1.0, max(0.4, rng.normal(0.8, 0.1)))
        red, blue = uniform(rng, self.red_gain), uniform(rng, self.blue_gain)
        mosaic = happens(rng, self.mosaic_probability)
        context.note(shot=shot, read=read, exposure=exposure, red_gain=red, blue_gain=blue, mosaic=mosaic)
        gains = (exposure * red, exposure, exposure * blue)
        return sensor_noise(image, rng, shot, read, gains, mosaic)


@dataclass(frozen=True)
class _Codec(ABC):
    """Encode and decode with a lossy codec.

    Attributes:
        quality: 1..100, an integer.
    """

    quality: int | tuple[int, int] = (30, 100)

    def __post_init__(self) -> None:
        check_ranges(self, quality=(1, 100))

    def __call__(self, image: np.ndarray, context: Context) -> np.ndarray:
        """Compress."""
        quality = ranges.integer(context.rng, self.quality)
        context.note(quality=quality)
        return self.coded(image, quality)

    @abstractmethod
    def coded(self, image: np.ndarray, quality: int) -> np.ndarray:
        """Return an image after encoding and decoding."""


@dataclass(frozen=True)
class Jpeg(_Codec):
    """Encode and decode with the JPEG codec; `quality` is 1..100."""

    def coded(self, image: np.ndarray, quality: int) -> np.ndarray:
        """Return an image after encoding and decoding."""
        return operations.jpeg(image, quality)


@dataclass(frozen=True)
class Webp(_Codec):
    """Encode and decode with the lossy WebP codec; `quality` is 1..100."""

    def coded(self, image: np.ndarray, quality: int) -> np.ndarray:
        """Return an image after encoding and decoding."""
        return operations.webp(image, quality)


@dataclass(frozen=True)
class Grain:
    """Add the grain of a scanned film, see `operations.grain`.

    Attributes:
        sigma: standard deviation (8-bit levels, 0..255).
        size: size of the grains (standard deviation of a Gaussian, pixels).
    """

    sigma: Range = (0.0, 15.0)
    size: Range = (0.5, 1.5)

    def __post_init__(self) -> None:
        check_ranges(self, sigma=(0, 255), size=(0.1, 100))

    def __call__(self, image: np.ndarray, context: Context) -> np.ndarray:
        """Add grain."""
        sigma, size = uniform(context.rng, self.sigma), uniform(context.rng, self.size)
        context.note(sigma=sigma, size=size)
        return operations.grain(image, context.rng, sigma, size)


@dataclass(frozen=True)
class Unsharp:
    """Sharpen too much, like cameras and scanners: edges get bright and dark halos.

    Attributes:
        amount: factor on the difference from a blurred image (0..10).
        radius: standard deviation of the blur (pixels).
    """

    amount: Range = (0.2, 1.0)
    radius: Range = (0.7, 2.0)

    def __post_init__(self) -> None:
        check_ranges(self, amount=(0, 10), radius=(0.1, 100))

    def __call__(self, image: np.ndarray, context: Context) -> np.ndarray:
        """Sharpen."""
        amount, radius = uniform(context.rng, self.amount), uniform(context.rng, self.radius)
        context.note(amount=amount, radius=radius)
        return operations.unsharp(image, amount, radius)


@dataclass(frozen=True)
class Quantise:
    """Clip and round to 8 bits, like a file."""

    def __call__(self, image: np.ndarray, context: Context) -> np.ndarray:
        """Round."""
        return operations.quantise(image)


def _pixels(sides: tuple[float, ...], scale: float) -> tuple[int, int]:
    # The small excess corrects rounding errors: 2/3 of 3 pixels must be 2, not 1.
    height, width = (max(1, int(side * scale + 1e-6)) for side in sides)
    return height, width
