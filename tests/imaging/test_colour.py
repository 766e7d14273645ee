"""Wavelet colour correction against the reference's numbers."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.imaging.colour import low_frequencies, wavelet_colour

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "image_ops.npz")


def nhwc(key: str):
    return jnp.asarray(GOLDEN[key].transpose(0, 2, 3, 1))


def test_decomposition():
    content = nhwc("content")
    low = low_frequencies(content)
    np.testing.assert_allclose(low, nhwc("low"), rtol=0, atol=1e-5)
    np.testing.assert_allclose(content - low, nhwc("high"), rtol=0, atol=1e-5)


def test_reconstruction():
    out = wavelet_colour(nhwc("content"), nhwc("style"))
    np.testing.assert_allclose(out, nhwc("reconstruction"), rtol=0, atol=1e-5)


def test_removes_a_colour_cast_and_keeps_detail():
    """A constant shift per channel is all low frequency: the correction undoes it."""
    style = nhwc("content")
    cast = style + jnp.array([0.2, -0.1, 0.05])[None, None, None]
    np.testing.assert_allclose(wavelet_colour(cast, style), style, atol=1e-6)


def test_image_smaller_than_the_filter():
    image = jnp.ones((1, 3, 2, 3))
    np.testing.assert_allclose(low_frequencies(image), image, atol=1e-6)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"\(1, 4, 4, 3\).*\(1, 4, 5, 3\)"):
        wavelet_colour(jnp.zeros((1, 4, 4, 3)), jnp.zeros((1, 4, 5, 3)))
