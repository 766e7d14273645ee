"""Colours under full transparency."""

import cv2
import numpy as np
import pytest

from diffbir_jax.imaging.samples import without_hidden

rng = np.random.default_rng(0)


def nearest(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The same by OpenCV's labels alone: each pixel looks its colour up in a table of all visible pixels."""
    hidden = (alpha == 0).astype(np.uint8)
    _, labels = cv2.distanceTransformWithLabels(hidden, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    table = np.zeros((labels.max() + 1, pixels.shape[2]), pixels.dtype)
    table[labels[hidden == 0]] = pixels[hidden == 0]
    return table[labels]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_hidden_pixels_take_the_colour_of_the_nearest_visible_one(
    dtype: type, channels: int, share: float
) -> None:
    """Any pattern, of slices as files give them; the input stays as it is."""
    given = rng.integers(0, np.iinfo(dtype).max, (60, 80, channels + 1), dtype, endpoint=True)
    pixels, alpha = given[..., :-1], np.where(rng.random((60, 80)) < share, 0, 9)
    alpha[0, :2] = 0, 1
    before = given.copy()
    found = without_hidden(pixels, alpha)
    assert found.dtype == dtype and found.shape == pixels.shape
    np.testing.assert_array_equal(found, nearest(pixels, alpha))
    np.testing.assert_array_equal(given, before)


def test_colours_by_eye() -> None:
    """A column of hidden pixels between two colours."""
    pixels = np.full((3, 5, 1), 77, np.uint8)
    pixels[:, 0], pixels[:, 4] = 10, 20
    alpha = np.array([[1, 0, 0, 0, 1]] * 3)
    found = without_hidden(pixels, alpha)[..., 0]
    assert found[:, 1].tolist() == [10] * 3 and found[:, 3].tolist() == [20] * 3
    assert set(found[:, 2].tolist()) <= {10, 20}


@pytest.mark.parametrize("alpha", [np.zeros((4, 4)), np.ones((4, 4))])
def test_nothing_hidden_or_nothing_visible_changes_nothing(alpha: np.ndarray) -> None:
    pixels = rng.integers(0, 255, (4, 4, 3), np.uint8)
    assert without_hidden(pixels, alpha) is pixels
