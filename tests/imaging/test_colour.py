"""Wavelet colour correction against the reference's numbers."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.imaging.colour import low_frequencies, wavelet_colour
from diffbir_jax.parity.runner import misses

GOLDEN = Path(__file__).parents[1] / "golden"


def test_parity():
    """Low and high frequencies of an image, and its colours replaced."""
    assert misses(GOLDEN, "image_ops:wavelet") == []


def test_removes_a_colour_cast_and_keeps_detail():
    """A constant shift per channel is all low frequency: the correction undoes it."""
    style = jnp.asarray(np.random.default_rng(0).uniform(size=(1, 48, 60, 3)), jnp.float32)
    cast = style + jnp.array([0.2, -0.1, 0.05])[None, None, None]
    np.testing.assert_allclose(wavelet_colour(cast, style), style, atol=1e-6)


def test_image_smaller_than_the_filter():
    image = jnp.ones((1, 3, 2, 3))
    np.testing.assert_allclose(low_frequencies(image), image, atol=1e-6)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"\(1, 4, 4, 3\).*\(1, 4, 5, 3\)"):
        wavelet_colour(jnp.zeros((1, 4, 4, 3)), jnp.zeros((1, 4, 5, 3)))
