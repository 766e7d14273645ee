"""Degradations: they turn an image into a training pair, with new random parameters for every image.

Three are published. `Compose` takes your own list of operations. `make_degradation` reads any of them from plain data.
A degradation uses only the random generator that it is given, so every sample has its own parameters. There is no pool
of past samples (Real-ESRGAN mixes its batches from one).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np

from diffbir_jax.data.example import DataError
from diffbir_jax.data.flow import Chain, Maybe, OneOf, Reduced, Shuffle, run
from diffbir_jax.data.kernels import KINDS as KERNELS
from diffbir_jax.data.operations import as_float, sharpen
from diffbir_jax.data.ranges import Range, check_flags, check_probabilities
from diffbir_jax.data.recipe import build
from diffbir_jax.data.steps import (
    Blur,
    Context,
    Downscale,
    GaussianNoise,
    Jpeg,
    PoissonNoise,
    Quantise,
    Record,
    Resize,
    SensorNoise,
    Sinc,
    Steps,
)

SHARES = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)  # Real-ESRGAN's probabilities of the kinds of kernels


@dataclass(frozen=True)
class Degraded:
    """A pair for training.

    Attributes:
        hq: (H, W, 3) float32 RGB in [0, 1], the target; sharpened if the degradation sharpens targets.
        lq: (H, W, 3) float32 in [0, 1], the degraded input.
        record: the drawn parameters, in order: "blur.sigma_x", "jpeg.quality", ....
    """

    hq: np.ndarray
    lq: np.ndarray
    record: Record


@dataclass(frozen=True)
class Degradation(ABC):
    """Steps from a target to its degraded input. Subclasses have the steps as fields; instances can be pickled.

    Attributes:
        sharpen: whether the target is sharpened first, see `operations.sharpen`.

    Raises:
        DataError: a step has a range that cannot be drawn from.
    """

    sharpen: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        check_flags(self, "sharpen")
        _ = self.sequence  # building the steps checks their ranges now, not in a worker later

    @cached_property
    @abstractmethod
    def sequence(self) -> Steps:
        """The steps, in order."""

    def __call__(self, hq: np.ndarray, rng: np.random.Generator) -> Degraded:
        """Degrade an image.

        Args:
            hq: (H, W, 3) uint8, or float32 in [0, 1], RGB; it is not modified.
            rng: the image's own generator; besides `hq`, the result depends only on it.

        Raises:
            DataError: another shape or dtype.
        """
        # The input is made from the sharpened target, as in Real-ESRGAN.
        target = sharpen(as_float(hq)) if self.sharpen else as_float(hq)
        context = Context(rng, (hq.shape[0], hq.shape[1]))
        return Degraded(target, run(self.sequence, target, context).clip(0, 1), context.record)


@dataclass(frozen=True)
class FirstOrder(Degradation):
    """Blur, downscale, noise, JPEG, enlarge: CodeFormer's model (Zhou et al., 2022). DiffBIR v1, v2 and its models for
    faces are trained with it.

    The result is not rounded to 8 bits, because enlarging is the first layer of the restoration, not a degradation.

    Attributes:
        blur: with a kernel of 41 pixels.
        downscale: by 1 to 12, without antialiasing.
        noise: in colour.
        jpeg: applied at the reduced size.
        enlarge: whether the result is resized bilinearly to the target's size; False keeps it small.
    """

    blur: Blur = Blur()
    downscale: Downscale = Downscale()
    noise: GaussianNoise = GaussianNoise()
    jpeg: Jpeg = Jpeg()
    enlarge: bool = True

    def __post_init__(self) -> None:
        check_flags(self, "enlarge")
        super().__post_init__()

    @cached_property
    def sequence(self) -> Steps:
        """The steps, in order."""
        steps = (
            ("blur", self.blur),
            ("downscale", self.downscale),
            ("noise", self.noise),
            ("jpeg", self.jpeg),
        )
        return (*steps, ("", Resize.to_target(("bilinear",)))) if self.enlarge else steps


@dataclass(frozen=True)
class SecondOrder(Degradation):
    """Two rounds of blur, resizing, noise and JPEG, and ringing: Real-ESRGAN's model (Wang et al., 2021). DiffBIR v2.1
    is trained with it.

    The second round works towards a target that is reduced by `stage2_scale`. Its JPEG comes before or after the last
    resizing and ringing, each with probability 1/2. The result is resized bicubically to the target's size and rounded
    to 8 bits.

    Attributes:
        blur: blur of the first round.
        resize: resizing of the first round, relative to the image.
        gaussian_probability: share of images with Gaussian noise in the first round; the others get Poisson noise.
        noise: Gaussian noise of the first round.
        poisson: Poisson noise of the first round.
        jpeg: JPEG of the first round.
        stage2_scale: divisor of the target's sides in the second round: a number or a range.
        blur_probability2: share of images that are blurred again.
        blur2: blur of the second round.
        resize2: resizing of the second round, relative to the reduced target.
        gaussian_probability2: as `gaussian_probability`, for the second round.
        noise2: Gaussian noise of the second round.
        poisson2: Poisson noise of the second round.
        sinc_probability: share of images with ringing at the end.
        sinc: the filter that rings.
        jpeg2: JPEG of the second round.
    """

    sharpen: bool = field(default=True, kw_only=True)
    blur: Blur = Blur((7, 21), KERNELS, SHARES, (0.2, 3.0), sinc_probability=0.1)
    resize: Resize = Resize((0.15, 1.5), (0.2, 0.7, 0.1))
    gaussian_probability: float = 0.5
    noise: GaussianNoise = GaussianNoise((1.0, 30.0), 0.4)
    poisson: PoissonNoise = PoissonNoise((0.05, 3.0), 0.4)
    jpeg: Jpeg = Jpeg((30, 95))
    stage2_scale: Range = 4.0
    blur_probability2: float = 0.8
    blur2: Blur = Blur((7, 21), KERNELS, SHARES, (0.2, 1.5), sinc_probability=0.1)
    # Relative to the target, so that the first round's scale does not accumulate.
    resize2: Resize = Resize((0.3, 1.2), (0.3, 0.4, 0.3), of_target=True)
    gaussian_probability2: float = 0.5
    noise2: GaussianNoise = GaussianNoise((1.0, 25.0), 0.4)
    poisson2: PoissonNoise = PoissonNoise((0.05, 2.5), 0.4)
    sinc_probability: float = 0.8
    sinc: Sinc = Sinc()
    jpeg2: Jpeg = Jpeg((30, 95))

    def __post_init__(self) -> None:
        names = ("gaussian_probability", "blur_probability2", "gaussian_probability2", "sinc_probability")
        check_probabilities(self, *names)
        super().__post_init__()

    @cached_property
    def sequence(self) -> Steps:
        """The steps, in order."""
        return (
            ("blur", self.blur),
            ("resize", self.resize),
            ("", _noise(self.gaussian_probability, ("noise", self.noise), ("poisson", self.poisson))),
            ("jpeg", self.jpeg),
            ("reduced", Reduced(self._second_round, self.stage2_scale)),
            ("", Resize.to_target(("bicubic",))),
            ("", Quantise()),
        )

    @property
    def _second_round(self) -> Steps:
        ringing = (
            ("last_resize", Resize.to_target()),
            ("", Maybe((("sinc", self.sinc),), self.sinc_probability)),
        )
        compress = ("jpeg2", self.jpeg2)
        # Both orders, as in Real-ESRGAN: ringing comes before or after compression.
        orders = (("jpeg_last", Chain((*ringing, compress))), ("jpeg_first", Chain((compress, *ringing))))
        return (
            ("", Maybe((("blur2", self.blur2),), self.blur_probability2)),
            ("resize2", self.resize2),
            ("", _noise(self.gaussian_probability2, ("noise2", self.noise2), ("poisson2", self.poisson2))),
            ("end", OneOf(orders, (0.5, 0.5))),
        )


@dataclass(frozen=True)
class Denoise(Degradation):
    """Several kinds of noise and JPEG in random order, without blur and resizing. The result is rounded to 8 bits.

    It is modelled on the training of SCUNet (Zhang et al., 2022), stage 1 of DiffBIR's blind denoising.

    Attributes:
        noise_probability: share of images with Gaussian noise.
        noise: Gaussian noise.
        poisson_probability: share of images with Poisson noise.
        poisson: Poisson noise.
        sensor_probability: share of images with sensor noise.
        sensor: noise of a camera's sensor.
        jpeg_probability: share of images with JPEG compression.
        jpeg: JPEG compression.
    """

    _PARTS: ClassVar = ("noise", "poisson", "sensor", "jpeg")
    noise_probability: float = 1.0
    noise: GaussianNoise = GaussianNoise((2.0, 50.0), 0.4)
    poisson_probability: float = 0.5
    poisson: PoissonNoise = PoissonNoise((0.05, 3.0), 0.4)
    sensor_probability: float = 0.25
    sensor: SensorNoise = SensorNoise()
    jpeg_probability: float = 0.75
    jpeg: Jpeg = Jpeg((30, 95))

    def __post_init__(self) -> None:
        check_probabilities(self, *(f"{name}_probability" for name in self._PARTS))
        super().__post_init__()

    @cached_property
    def sequence(self) -> Steps:
        """The steps, in order."""
        parts = tuple(
            (name, Maybe(((name, getattr(self, name)),), getattr(self, f"{name}_probability")))
            for name in self._PARTS
        )
        return (("shuffle", Shuffle(parts)), ("", Quantise()))


@dataclass(frozen=True)
class Compose(Degradation):
    """Your own list of steps.

    Attributes:
        steps: (name, step) pairs, in order; the record uses these names.
        enlarge: whether a result of another size is resized bicubically to the target's size.
    """

    steps: Steps
    enlarge: bool = True

    def __post_init__(self) -> None:
        check_flags(self, "enlarge")
        super().__post_init__()

    @cached_property
    def sequence(self) -> Steps:
        """The steps, in order."""
        return (*self.steps, ("", Resize.to_target(("bicubic",)))) if self.enlarge else self.steps


KINDS: dict[str, type[Degradation]] = {
    "first_order": FirstOrder,
    "second_order": SecondOrder,
    "denoise": Denoise,
    "compose": Compose,
}


def make_degradation(config: Mapping[str, object]) -> Degradation:
    """Read a degradation from plain data, such as {"kind": "first_order", "jpeg": {"quality": (60, 95)}}.

    Args:
        config: `kind` is one of `KINDS`; all other entries are its fields. A missing field has its published range.
            The `steps` of "compose" are a list of (operation, {field: value}), see `recipe.OPERATIONS`.

    Raises:
        DataError: an unknown kind, field or operation, or a range that cannot be drawn from; the message names it.
    """
    kind = config.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise DataError(f"the degradation's kind is {kind!r}; give one of {', '.join(KINDS)}")
    return build(KINDS[kind], {key: value for key, value in config.items() if key != "kind"}, kind)


def _noise(gaussian_probability: float, *kinds: tuple[str, GaussianNoise | PoissonNoise]) -> OneOf:
    # Gaussian or Poisson noise, never both, as in Real-ESRGAN.
    return OneOf(kinds, (gaussian_probability, 1 - gaussian_probability))
