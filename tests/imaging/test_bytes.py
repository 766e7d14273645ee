"""Resizing and conversion of images in 8 and 16 bits."""

import jax
import numpy as np
import pytest
from PIL import Image

from diffbir_jax.imaging.bytes import enlarge, resize_alpha, resize_bytes, to_depth, to_float

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def test_eight_bits_are_resized_by_pillow():
    expected = np.asarray(Image.fromarray(RGB).resize((75, 50), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(enlarge(RGB, 2.5), expected)
    for channel in range(3):
        resized = resize_alpha(np.ascontiguousarray(RGB[..., channel]), (50, 75))
        np.testing.assert_array_equal(resized, expected[..., channel])


@pytest.mark.parametrize("size", [(50, 75), (13, 11)])
def test_sixteen_bits_agree_with_eight_and_are_finer(size):
    # In the middle of the range: of bytes, Pillow clips what overshoots between rows and columns as well.
    soft = RGB // 2 + 64
    deep = soft.astype(np.uint16) * 257
    resized = resize_bytes(deep, size)
    assert resized.dtype == np.uint16
    np.testing.assert_allclose(resized / 257, resize_bytes(soft, size), atol=1.5)
    assert len(np.unique(resized)) > 300
    np.testing.assert_array_equal(resize_alpha(deep[..., 1], size), resized[..., 1])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_overshoot_is_clipped(dtype):
    top = np.iinfo(dtype).max
    step = np.repeat(np.array([[0, 0, top, top]], dtype), 4, axis=0)
    resized = resize_alpha(step, (4, 40))
    # The kernel's lobes leave the range on both sides of the step; wrapped round they would be in the middle of it.
    assert resized.dtype == dtype and (resized[0, :20] < top / 2).all() and (resized[0, 20:] > top / 2).all()
    assert resized.min() == 0 and resized.max() == top


def test_enlarge_takes_rgb_of_files_only():
    assert enlarge(RGB.astype(np.uint16), 2).dtype == np.uint16
    for wrong in (RGB / 255, RGB[..., 0], RGB[..., :2], RGB.astype(np.int16)):
        with pytest.raises(ValueError, match=r"give \(H, W, 3\) uint8 RGB, uint16 or float32"):
            enlarge(wrong, 2)
    with pytest.raises(ValueError, match="give a larger factor"):
        enlarge(RGB, 0.01)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_floats_and_back(dtype):
    every = np.arange(np.iinfo(dtype).max + 1).astype(dtype).reshape(-1, 16, 1)
    floats = np.asarray(jax.device_get(to_float(every)))
    assert floats.shape == (1, *every.shape) and floats.min() == 0 and floats.max() == 1
    np.testing.assert_array_equal(to_depth(floats[0], dtype), every)


def test_to_depth_rounds_and_clips():
    image = np.array([[[-0.1, 0.5 / 255 - 1e-4, 0.5 / 255 + 1e-4, 1.2]]])
    np.testing.assert_array_equal(to_depth(image, np.uint8), [[[0, 0, 1, 255]]])
    assert to_depth(image, "uint16")[0, 0, 3] == 65535
    with pytest.raises(ValueError, match="float64; use uint8, uint16 or float32"):
        to_depth(image, np.float64)
