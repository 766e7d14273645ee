"""Resizing against PyTorch's numbers."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.imaging.resize import resize, resize_matrix

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "image_ops.npz")
KEYS = [key for key in GOLDEN.files if key.startswith(("bicubic_antialias|", "interpolate_"))]
METHODS = ("bicubic_antialias", "bicubic", "bilinear", "area")


@pytest.mark.parametrize("key", KEYS)
def test_parity(key):
    method, size = key.removeprefix("interpolate_").split("|")
    height, width = map(int, size.split("x"))
    image = jnp.asarray(GOLDEN["content"].transpose(0, 2, 3, 1))
    out = resize(image, (height, width), method)
    np.testing.assert_allclose(out, GOLDEN[key].transpose(0, 2, 3, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_keeps_constants_and_size(method):
    for source, target in [(7, 3), (3, 7), (5, 5), (100, 1), (1, 4)]:
        matrix = resize_matrix(source, target, method)
        np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)
        if source == target:
            np.testing.assert_allclose(matrix, np.eye(source), atol=1e-12)


def test_single_image_and_jit():
    image = jnp.asarray(GOLDEN["content"][0].transpose(1, 2, 0))
    out = jax.jit(lambda x: resize(x, (24, 30)))(image)
    np.testing.assert_allclose(
        out, GOLDEN["bicubic_antialias|24x30"][0].transpose(1, 2, 0), rtol=0, atol=1e-5
    )


def test_errors():
    image = jnp.zeros((1, 4, 4, 3))
    with pytest.raises(ValueError, match="'lanczos'.*'area'"):
        resize(image, (2, 2), "lanczos")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="0x2"):
        resize(image, (0, 2))
