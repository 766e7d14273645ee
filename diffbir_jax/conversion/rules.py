"""Rules of single layers; every key table is made from them."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from diffbir_jax.conversion.engine import CONV, DENSE, Rule

Rules = Iterator[Rule]


def conv(key: str, path: str) -> Rules:
    """A convolution or 1x1 convolution with its bias."""
    yield Rule(f"{key}.weight", f"{path}/kernel", CONV)
    yield Rule(f"{key}.bias", f"{path}/bias")


def dense(key: str, path: str) -> Rules:
    """A dense layer with its bias."""
    yield Rule(f"{key}.weight", f"{path}/kernel", DENSE)
    yield Rule(f"{key}.bias", f"{path}/bias")


def norm(key: str, path: str) -> Rules:
    """A normalisation with scale and bias."""
    yield Rule(f"{key}.weight", f"{path}/scale")
    yield Rule(f"{key}.bias", f"{path}/bias")


def stacked(index: int, rules: Iterable[Rule]) -> Rules:
    """The rules of one of the repeated blocks that the Flax side stacks along a leading axis."""
    return (replace(rule, index=index) for rule in rules)
