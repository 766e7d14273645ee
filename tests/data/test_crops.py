import numpy as np
import pytest
from PIL import Image

from diffbir_jax.data.crops import Crop, augment, shrink
from diffbir_jax.data.example import BrokenExampleError


def noise(height, width):
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


def take(crop, image, seed=0):
    return crop(image, np.random.default_rng(seed))


@pytest.mark.parametrize("kind", ["center", "random", "scaled"])
@pytest.mark.parametrize("shape", [(16, 16), (40, 48), (131, 67), (17, 300)])
def test_crops_have_their_size_whatever_the_photo(kind, shape):
    for seed in range(5):
        crop = take(Crop(kind, 16, flip=True, rotate=True), noise(*shape), seed)
        assert (crop.shape, crop.dtype) == ((16, 16, 3), np.uint8)
        assert crop.flags.c_contiguous


def halved(image):
    """Means of 2 x 2 pixels, rounded along x and then along y, as Pillow does."""
    wide = image.astype(int)
    rows = (wide[:, ::2] + wide[:, 1::2] + 1) // 2
    return (rows[::2] + rows[1::2] + 1) // 2


def test_a_photo_is_halved_by_its_means_then_brought_to_size():
    """Two exact halvings and nothing else: 64 x 128 to a short side of 16."""
    image = noise(64, 128)
    quartered = halved(halved(image))
    np.testing.assert_array_equal(shrink(image, 16), quartered)
    # Less than twice as large: bicubic alone.
    expected = Image.fromarray(noise(31, 50)).resize((round(50 * 16 / 31), 16), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(shrink(noise(31, 50), 16), expected)


def test_the_center_crop_is_the_middle_of_the_short_side():
    image = noise(16, 45)
    np.testing.assert_array_equal(take(Crop("center", 16), image), image[:, 14:30])
    np.testing.assert_array_equal(take(Crop("center", 16), image.swapaxes(0, 1)), image.swapaxes(0, 1)[14:30])


def test_random_crops_span_seven_tenths_to_all_of_the_short_side():
    """A picture of its own columns tells what was cut: the range of values is the share."""
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (200, 200, 3)).copy()
    crops = [take(Crop("random", 70), ramp, seed)[35, :, 0].astype(int) for seed in range(300)]
    spans = [(crop.max() - crop.min()) / 199 for crop in crops]
    assert 0.67 < min(spans) < 0.72 and 0.97 < max(spans) <= 1
    starts = {int(crop.min()) for crop in crops}
    assert min(starts) < 3 and max(starts) > 50


def test_the_whole_photo_must_have_the_size():
    image = noise(16, 16)
    np.testing.assert_array_equal(take(Crop("none", 16), image), image)
    with pytest.raises(
        BrokenExampleError, match='is 24x16 pixels, must be 16x16; take a crop of kind "center"'
    ):
        take(Crop("none", 16), noise(16, 24))


@pytest.mark.parametrize(
    ("flip", "rotate", "orientations"),
    [(False, False, {0}), (True, False, {0, 4}), (False, True, {0, 1, 2, 3}), (True, True, set(range(8)))],
)
def test_flips_and_turns_are_drawn_alike_often(flip, rotate, orientations):
    image = noise(8, 8)
    possible = [np.rot90(picture, k) for picture in (image, image[:, ::-1]) for k in range(4)]
    rng = np.random.default_rng(0)
    drawn = [augment(image, rng, flip, rotate) for _ in range(400)]
    seen = [next(i for i, p in enumerate(possible) if np.array_equal(p, crop)) for crop in drawn]
    counts = np.bincount(seen, minlength=8)
    assert set(np.flatnonzero(counts)) == orientations
    assert counts[counts > 0].min() > 0.6 * 400 / len(orientations)


@pytest.mark.parametrize("kind", ["center", "random", "scaled", "none"])
def test_a_crop_depends_on_its_generator_alone(kind):
    image = noise(16, 16) if kind == "none" else noise(60, 50)
    crop = Crop(kind, 16, flip=True, rotate=True)
    crops = [take(crop, image, seed) for seed in range(20)]
    np.testing.assert_array_equal(crops[3], take(crop, image, 3))
    assert len({c.tobytes() for c in crops}) > 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("middle", 16), "kind is 'middle', allowed are center, random, scaled, none"),
        (("none", 0), "size is 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Crop(*settings)
