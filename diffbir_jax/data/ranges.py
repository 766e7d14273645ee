"""Ranges of degradation parameters: random draws and checks."""

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np

from diffbir_jax.data.example import DataError

# A number, or (lowest, highest).
Range = float | tuple[float, float]
T = TypeVar("T")


def uniform(rng: np.random.Generator, value: Range) -> float:
    """Draw a number uniformly from a range. A single number is returned without a draw."""
    return rng.uniform(*value) if isinstance(value, tuple) else float(value)


def log_uniform(rng: np.random.Generator, value: Range) -> float:
    """Draw a number whose logarithm is uniform. A single number is returned, but it costs a draw."""
    ends = value if isinstance(value, tuple) else (value, value)
    return float(np.exp(rng.uniform(*np.log(ends))))


def integer(rng: np.random.Generator, value: Range) -> int:
    """Draw an integer uniformly, both ends included. A single number is returned without a draw."""
    if not isinstance(value, tuple):
        return int(value)
    return int(rng.integers(int(value[0]), int(value[1]) + 1))


def happens(rng: np.random.Generator, probability: float) -> bool:
    """Draw whether an event of the given probability (0..1) happens; probabilities 0 and 1 need no draw."""
    return probability >= 1 or (probability > 0 and rng.random() < probability)


def choose(rng: np.random.Generator, options: Sequence[T], shares: Sequence[float] | None = None) -> T:
    """Draw one of `options` with the given probabilities (they sum to 1); without `shares` all are equally likely."""
    if shares is None:
        return options[int(rng.integers(len(options)))]
    # The same draw and result as `rng.choice` with these shares, without the cost of its checks.
    return options[bisect_right(_cumulative(tuple(shares)), rng.random())]


def check_ranges(owner: object, **limits: tuple[float, float]) -> None:
    """Check fields of `owner` that hold a `Range`.

    Args:
        owner: the object with the fields; messages name its class.
        limits: field -> (smallest, largest) number allowed in the range.

    Raises:
        DataError: a field is no range, has low above high, or exceeds its limits.
    """
    for field, (smallest, largest) in limits.items():
        value = getattr(owner, field)
        ends = value if isinstance(value, tuple) else (value, value)
        numbers = len(ends) == 2 and all(map(_is_number, ends))
        if not numbers or not smallest <= ends[0] <= ends[1] <= largest:
            raise DataError(
                f"{type(owner).__name__}.{field} is {value!r}; give a number or (low, high), "
                f"{smallest:g} <= low <= high <= {largest:g}"
            )


def check_around_one(owner: object, field: str) -> None:
    """Check a field that holds (low, high) with 1 between the two.

    Raises:
        DataError: low is not above 0, or 1 is not between the two.
    """
    value = getattr(owner, field)
    numbers = isinstance(value, tuple) and len(value) == 2 and all(map(_is_number, value))
    if not numbers or not 0 < value[0] <= 1 <= value[1] < np.inf:
        raise DataError(
            f"{type(owner).__name__}.{field} is {value!r}; give (low, high), 0 < low <= 1 <= high"
        )


def check_probabilities(owner: object, *fields: str) -> None:
    """Check fields that hold one probability each.

    Raises:
        DataError: a field is no number in 0 .. 1.
    """
    for field in fields:
        value = getattr(owner, field)
        if not (_is_number(value) and 0 <= value <= 1):
            raise DataError(f"{type(owner).__name__}.{field} is {value!r}; give a probability, 0 to 1")


def check_shares(owner: object, field: str, names: Sequence[str]) -> None:
    """Check a field that holds one probability for each of `names`.

    Raises:
        DataError: there are more or fewer of them, one is not in 0 .. 1, or the sum is not 1 (to 1e-6).
    """
    value = getattr(owner, field)
    valid = isinstance(value, tuple) and len(value) == len(names) and all(map(_is_number, value))
    if not valid or min(value, default=-1) < 0 or abs(sum(value) - 1) > 1e-6:
        raise DataError(
            f"{type(owner).__name__}.{field} is {value!r}; give {len(names)} probabilities that sum to 1, "
            f"of {', '.join(names)}"
        )


def check_flags(owner: object, *fields: str) -> None:
    """Check fields that hold True or False.

    Raises:
        DataError: a field holds something else, such as the text "false".
    """
    for field in fields:
        if not isinstance(getattr(owner, field), bool):
            raise DataError(
                f"{type(owner).__name__}.{field} is {getattr(owner, field)!r}; give True or False"
            )


def check_choices(owner: object, field: str, allowed: Sequence[str]) -> None:
    """Check a field that holds one or more of the `allowed` words.

    Raises:
        DataError: it holds none, or a word that is not allowed.
    """
    value = getattr(owner, field)
    if not isinstance(value, tuple) or not value or not set(value) <= set(allowed):
        raise DataError(f"{type(owner).__name__}.{field} is {value!r}; give a tuple of {', '.join(allowed)}")


@lru_cache(256)
def _cumulative(shares: tuple[float, ...]) -> list[float]:
    total = np.cumsum(shares)
    return (total / total[-1]).tolist()


def _is_number(value: object) -> bool:
    """Whether a value is a number. NaN counts, but then fails every comparison; True and False do not count."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
