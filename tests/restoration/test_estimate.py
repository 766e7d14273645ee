"""The shipped network on crops of held-out photos, and how tiles are chosen and joined."""

import numpy as np
import pytest

from diffbir_jax.console.errors import UserError
from diffbir_jax.data import operations
from diffbir_jax.evaluation.suites.spec import FOLDER
from diffbir_jax.imaging.bytes import to_depth
from diffbir_jax.imaging.reading import read_image
from diffbir_jax.restoration.estimate import (
    MOST,
    WEIGHTS,
    Estimate,
    estimate,
    joined,
    places,
    weighted_median,
)

# Photos that are sharp in themselves.
NAMES = ("city10", "forest3", "nasa6", "station1")


def photo(name: str) -> np.ndarray:
    return read_image(FOLDER / "photos" / "held_out" / "gt" / f"{name}.png")


def degraded(image: np.ndarray, noise: float = 0.0, quality: int = 0) -> np.ndarray:
    x = operations.gaussian_noise(operations.as_float(image), np.random.default_rng(0), noise)
    return to_depth(operations.jpeg(x, quality) if quality else x, np.uint8)


@pytest.fixture(scope="module")
def clean() -> list[Estimate]:
    return [estimate(photo(name)) for name in NAMES]


def test_the_file_is_small_and_half_precision():
    assert WEIGHTS.stat().st_size < 1_000_000


def test_photos_have_no_more_than_the_traces_of_their_own_files(clean: list[Estimate]):
    """The photographs were JPEG files of high quality before they were cropped."""
    for found in clean:
        assert found.noise < 3
        assert found.quality > 80


@pytest.mark.parametrize("quality", [35, 75])
def test_jpeg_quality(quality: int):
    found = [estimate(degraded(photo(name), quality=quality)).quality for name in NAMES]
    assert np.mean(np.abs(np.array(found) - quality)) < 4


def test_noise():
    for sigma in (6.0, 20.0):
        found = [estimate(degraded(photo(name), noise=sigma)).noise for name in NAMES]
        assert np.mean(np.abs(np.array(found) - sigma)) < 3


def test_enlarging_is_seen(clean: list[Estimate]):
    for name, before in zip(NAMES, clean):
        small = operations.resize(operations.as_float(photo(name)), (86, 86), "area")
        large = operations.resize(small, (256, 256), "bicubic")
        assert estimate(to_depth(large, np.uint8)).scale > before.scale + 0.7


def test_depths_say_the_same():
    """16 bits and floats are rounded to the same bytes."""
    image = photo(NAMES[0])[:64, :80]
    expected = estimate(image)
    assert estimate(image.astype(np.uint16) * np.uint16(257)) == expected
    assert estimate(image / np.float32(255)) == expected


@pytest.mark.parametrize(
    ("height", "width", "side"), [(64, 64, 64), (100, 3000, 64), (128, 129, 128), (3000, 4000, 128)]
)
def test_tiles_lie_inside_on_the_grid_of_jpeg(height: int, width: int, side: int):
    found = places(height, width, side)
    assert 1 <= len(found) <= MOST
    assert len(found) == len({*found})
    for top, left in found:
        assert top % 16 == left % 16 == 0
        assert 0 <= top <= height - side
        assert 0 <= left <= width - side


def test_tiles_count_by_the_error_that_is_expected():
    values = np.array([[1.0, 5.0, 90.0, 1.0], [2.0, 9.0, 50.0, 3.0], [3.0, 7.0, 70.0, 2.0]])
    errors = np.array([[1.0, 0.1, 1.0, 1.0], [1.0, 1.0, 0.1, 1.0], [1.0, 1.0, 1.0, 1.0]])
    found = joined(values, errors)
    assert (found.blur, found.noise, found.quality, found.scale) == (2.0, 5.0, 50.0, 2.0)
    assert found.errors[0] == pytest.approx(1.0)
    assert found.errors[1] == pytest.approx((0.1 / 0.01 + 2) / (1 / 0.01 + 2))


def test_half_of_the_weight_lies_below_the_median():
    assert weighted_median(np.array([4.0, 1.0, 2.0]), np.array([1.0, 1.0, 1.0])) == 2.0
    assert weighted_median(np.array([4.0, 1.0, 2.0]), np.array([5.0, 1.0, 1.0])) == 4.0


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (np.zeros((63, 90, 3), np.uint8), "the image is 90x63; the estimate needs at least 64x64"),
        (np.zeros((64, 64), np.uint8), "shape"),
        (np.full((64, 64, 3), 200, np.float32), "floats are in"),
    ],
)
def test_what_cannot_be_read(image: np.ndarray, told: str):
    with pytest.raises(UserError, match=told):
        estimate(image)
