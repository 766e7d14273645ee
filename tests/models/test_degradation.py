"""Statistics that show how an image was degraded, against the codecs and transforms of other libraries."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from diffbir_jax.models import degradation_features as statistics
from tests.micro import picture


def saved(image: np.ndarray, quality: int) -> Image.Image:
    """An image as Pillow's JPEG."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return Image.open(file)


@pytest.mark.parametrize("quality", [1, 22, 49, 50, 51, 75, 90, 98, 100])
def test_tables_are_those_of_libjpeg(quality: int):
    written = saved(np.zeros((8, 8, 3), np.uint8), quality).quantization[0]  # pyright: ignore[reportAttributeAccessIssue]
    assert statistics.table(quality).reshape(-1).tolist() == list(written)


def test_coefficients_are_those_of_opencv():
    luma = np.random.default_rng(0).uniform(0, 255, (1, 16, 24)).astype(np.float32)
    found = np.asarray(statistics.dct(luma))[0, 4]  # the middle block of the second row
    np.testing.assert_allclose(found, cv2.dct(luma[0, 8:16, 8:16] - 128), atol=1e-3)


@pytest.mark.parametrize("quality", [30, 50, 70, 90])
def test_the_comb_of_a_quality_fits_best(quality: int):
    noisy = np.random.default_rng(1).normal(128, 30, (64, 64, 1)).clip(0, 255).astype(np.uint8)
    image = np.asarray(saved(np.repeat(noisy, 3, axis=2), quality))
    luma = statistics.ycc(image[None].astype(np.float32))[..., 0]
    scores = np.asarray(statistics.comb_scores(statistics.dct(luma)))[0].reshape(2, -1).mean(0)
    assert abs(statistics.QUALITIES[int(scores.argmax())] - quality) <= 2


def test_a_turned_picture_has_the_same_levels_of_noise():
    image = picture(64, 64, 3)[None].astype(np.float32)
    turned = image.swapaxes(1, 2)
    a, b = (np.asarray(statistics.flattest(statistics.ycc(x))) for x in (image, turned))
    np.testing.assert_allclose(a, b, atol=1e-4)
