"""Losses of one-step training against golden values; `make parity` also checks gradients of LoRA steps."""

import pytest

from diffbir_jax.parity.runner import misses
from tests.models.reference import GOLDEN


@pytest.mark.parametrize("name", ["gan|*", "head|*", "vsd"])
def test_golden(name):
    assert misses(GOLDEN, f"losses:{name}") == []
