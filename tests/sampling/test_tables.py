"""The examples in the docstrings of the tables."""

import doctest

from diffbir_jax.sampling import tables


def test_the_examples_hold() -> None:
    found = doctest.testmod(tables)
    assert found.attempted >= 2 and found.failed == 0
