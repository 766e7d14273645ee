"""Resizing against PyTorch's numbers."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.imaging.resize import resize, resize_matrix
from diffbir_jax.parity.runner import misses
from tests.draws import uniform

GOLDEN = Path(__file__).parents[1] / "golden"
METHODS = ("bicubic_antialias", "bicubic", "bilinear", "area")


def test_parity():
    assert misses(GOLDEN, "image_ops:bicubic_antialias") == []
    assert misses(GOLDEN, "image_ops:interpolate_*") == []


@pytest.mark.parametrize("method", METHODS)
def test_keeps_constants_and_size(method):
    for source, target in [(7, 3), (3, 7), (5, 5), (100, 1), (1, 4)]:
        matrix = resize_matrix(source, target, method)
        np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)
        if source == target:
            np.testing.assert_allclose(matrix, np.eye(source), atol=1e-12)


def test_single_image_and_jit():
    images = uniform(0, (2, 48, 60, 3))
    out = jax.jit(lambda x: resize(x, (24, 30)))(images[1])
    np.testing.assert_allclose(out, resize(images, (24, 30))[1], rtol=0, atol=1e-6)


def test_errors():
    image = jnp.zeros((1, 4, 4, 3))
    with pytest.raises(ValueError, match="'lanczos'.*'area'"):
        resize(image, (2, 2), "lanczos")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="0x2"):
        resize(image, (0, 2))
