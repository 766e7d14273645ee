"""Steps that apply other steps: in order, shuffled, one of several, with a probability, or at another size."""

from dataclasses import dataclass, replace

import numpy as np

from diffbir_jax.data.ranges import (
    Range,
    check_probabilities,
    check_ranges,
    check_shares,
    choose,
    happens,
    uniform,
)
from diffbir_jax.data.steps import Context, Steps


def run(steps: Steps, image: np.ndarray, context: Context) -> np.ndarray:
    """Apply steps in order; each writes to the record under its name."""
    for name, step in steps:
        image = step(image, context.named(name))
    return image


@dataclass(frozen=True)
class Chain:
    """Apply steps in order.

    Attributes:
        steps: (name, step) each.
    """

    steps: Steps

    def __call__(self, image: np.ndarray, context: Context) -> np.ndarray:
        """Apply the steps."""
        return run(self.steps, image, context)


@dataclass(frozen=True)
class Shuffle:
    """Apply steps in a random order, drawn for each image; all orders are equally likely.

    Attributes:
        steps: (name, step) each.
    """

    steps: Steps

    def __call__(self, image: np.ndarray, context: Context) -> np.ndarray:
        """Apply the steps."""
        order = context.rng.permutation(len(self.steps))
        # The record names the order, so that a preview shows what happened to an image.
        context.note(order=" ".join(self.steps[i][0] for i in order))
        return run(tuple(self.steps[i] for i in order), image, context)


@dataclass(frozen=True)
class OneOf:
    """Apply one of several steps.

    Attributes:
        steps: (name, step) each.
        probabilities: probability of each step.
    """

    steps: Steps
    probabilities: tuple[float, ...]

    def __post_init__(self) -> None:
        check_shares(self, "probabilities", [name for name, _ in self.steps])

    def __call__(self, image: np.ndarray, context: Context) -> np.ndarray:
        """Apply the drawn step."""
        chosen = choose(context.rng, self.steps, self.probabilities)
        context.note(chosen=chosen[0])
        return run((chosen,), image, context)


@dataclass(frozen=True)
class Maybe:
    """Apply steps to a share of the images.

    Attributes:
        steps: (name, step) each, applied in order.
        probability: probability that they are applied.
    """

    steps: Steps
    probability: float = 0.5

    def __post_init__(self) -> None:
        check_probabilities(self, "probability")

    def __call__(self, image: np.ndarray, context: Context) -> np.ndarray:
        """Apply the steps, or none."""
        applied = happens(context.rng, self.probability)
        context.note(applied=applied)
        return run(self.steps, image, context) if applied else image


@dataclass(frozen=True)
class Reduced:
    """Apply steps towards a smaller target size than that of the whole degradation.

    Attributes:
        steps: (name, step) each, applied in order.
        factor: divisor of the target's sides (at least 1).
    """

    steps: Steps
    factor: Range = 4.0

    def __post_init__(self) -> None:
        check_ranges(self, factor=(1, 1e4))

    def __call__(self, image: np.ndarray, context: Context) -> np.ndarray:
        """Apply the steps."""
        factor = uniform(context.rng, self.factor)
        context.note(factor=factor)
        height, width = context.target
        # The target stays fractional; the steps round it, once.
        return run(self.steps, image, replace(context, target=(height / factor, width / factor)))
