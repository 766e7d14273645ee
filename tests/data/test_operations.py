from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy import ndimage

from diffbir_jax.data import operations
from diffbir_jax.data.example import DataError

GOLDEN = Path(__file__).parents[1] / "golden"
SIZES = [(97, 131), (1, 1), (7, 300), (64, 48)]


@pytest.fixture(scope="module")
def image():
    """Odd sides, detail at every scale."""
    rng = np.random.default_rng(0)
    coarse = cv2.resize(rng.random((9, 12, 3), dtype=np.float32), (131, 97))
    return (0.8 * coarse + 0.2 * rng.random((97, 131, 3), dtype=np.float32)).astype(np.float32)


@pytest.fixture(scope="module")
def gray():
    return np.full((200, 200, 3), 0.5, np.float32)


def nhwc(array):
    return np.ascontiguousarray(np.moveaxis(array, 1, -1))


def test_filters_are_the_references():
    with np.load(GOLDEN / "degradation.npz") as golden:
        images, kernels = nhwc(golden["image"]), golden["filter_kernels"]
        for i, (filtered, sharp) in enumerate(zip(nhwc(golden["filtered"]), nhwc(golden["usm"]))):
            np.testing.assert_allclose(
                operations.filter2d(images[i], kernels[i]), filtered, rtol=0, atol=1e-5
            )
            np.testing.assert_allclose(operations.sharpen(images[i]), sharp, rtol=0, atol=1e-5)


ONE_SIDED = np.arange(1.0, 26).reshape(5, 5) / 325
PRODUCT = np.outer([1.0, 2, 3, 0, 1], [5.0, 1, 0, 0, 2]) / 56
KERNELS = {
    "of no symmetry": ONE_SIDED,
    "column by row": PRODUCT,
    "little around it": np.pad(ONE_SIDED, 8, constant_values=1e-14),
    "nothing around it": np.pad(PRODUCT, 8),
    "sum zero": np.outer([1.0, -2, 1], [1.0, 2, 1]),
    "one pixel": np.ones((1, 1)),
}


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_filters_correlate_with_a_mirrored_border(image, kernel):
    expected = ndimage.correlate(image.astype(np.float64), kernel[..., None], mode="mirror")
    np.testing.assert_allclose(operations.filter2d(image, kernel), expected, rtol=0, atol=1e-6)


def test_resizing_is_that_of_pytorch():
    """The goldens of image operations were computed by torch.nn.functional.interpolate."""
    checked = set()
    with np.load(GOLDEN / "image_ops.npz") as golden:
        image = nhwc(golden["content"])[0]
        for key in (key for key in golden if key.startswith("interpolate_")):
            mode = key.split("|")[0].removeprefix("interpolate_")
            expected = nhwc(golden[key])[0]
            out = operations.resize(image, expected.shape[:2], mode)
            np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5, err_msg=key)
            checked.add(mode)
    assert checked == set(operations.MODES)


@pytest.mark.parametrize("size", SIZES)
def test_area_averages_the_pixels_that_a_new_one_touches(image, size):
    out = operations.resize(image, size, "area")
    assert (out.shape, out.dtype) == ((*size, 3), np.float32)
    for i, j in {(0, 0), (size[0] // 2, size[1] // 3), (size[0] - 1, size[1] - 1)}:
        rows, columns = (
            slice(k * n // m, int(np.ceil((k + 1) * n / m))) for k, n, m in zip((i, j), image.shape, size)
        )
        np.testing.assert_allclose(out[i, j], image[rows, columns].mean((0, 1)), atol=2e-6)


@pytest.mark.parametrize("mode", operations.MODES)
@pytest.mark.parametrize("size", SIZES)
def test_flat_images_stay_flat(mode, size):
    flat = np.full((31, 17, 3), 0.3, np.float32)
    np.testing.assert_allclose(operations.resize(flat, size, mode), 0.3, atol=1e-6)


def test_results_do_not_depend_on_threads(image):
    def results():
        kernels = [np.full((k, k), 1 / k**2) for k in (7, 11, 21, 41)]
        large = np.tile(image, (4, 4, 1))
        return [operations.filter2d(large, kernel) for kernel in kernels] + [
            operations.sharpen(large),
            *(operations.resize(large, (301, 777), mode) for mode in operations.MODES),
        ]

    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        alone = results()
        cv2.setNumThreads(4)
        for one, four in zip(alone, results()):
            np.testing.assert_array_equal(one, four)
    finally:
        cv2.setNumThreads(before)


@pytest.mark.parametrize("gray_noise", [False, True])
def test_gaussian_noise_has_its_deviation(gray, gray_noise):
    noise = operations.gaussian_noise(gray, np.random.default_rng(0), 12.0, gray_noise) - gray
    assert 255 * noise.std() == pytest.approx(12, rel=0.02)
    assert noise.mean() == pytest.approx(0, abs=1e-3)
    correlation = np.corrcoef(noise.reshape(-1, 3).T)[0, 1]
    assert correlation == pytest.approx(1.0 if gray_noise else 0.0, abs=0.02)


def test_the_variance_of_poisson_noise_is_the_brightness_over_white():
    """Eight gray levels: eight photons are white."""
    levels = np.arange(1, 9) * 15 / np.float32(255)
    image = np.repeat(np.repeat(levels, 40)[:, None, None], 200, 1).repeat(3, 2).astype(np.float32)
    noise = (operations.poisson_noise(image, np.random.default_rng(0), 0.3) - image).reshape(8, -1)
    free = noise.std(1)[2:6]  # darker, zero is often reached; the scale keeps the rest from white
    np.testing.assert_allclose(free, 0.3 * np.sqrt(levels[2:6] / 8), rtol=0.05)


def test_gray_poisson_noise_is_equal_in_the_channels(image):
    middle = 0.4 + 0.2 * image  # nothing is clipped
    out = operations.poisson_noise(middle, np.random.default_rng(0), 0.5, gray=True) - middle
    np.testing.assert_allclose(out, out[..., :1].repeat(3, 2), atol=1e-6)
    assert out.std() > 0.01


def test_jpeg_loses_more_at_low_quality(image):
    errors = [np.abs(operations.jpeg(image, quality) - image).mean() for quality in (95, 60, 10)]
    assert errors == sorted(errors) and errors[0] < 0.05


def test_colours_keep_their_order():
    red = np.zeros((16, 16, 3), np.float32)
    red[..., 0] = 0.8
    out = operations.jpeg(red, 95)
    assert out[..., 0].min() > 0.75 and out[..., 1:].max() < 0.05


def test_nothing_is_written_to():
    image = np.random.default_rng(0).random((33, 21, 3), dtype=np.float32)
    image.flags.writeable = False
    rng = np.random.default_rng(0)
    operations.filter2d(image, np.ones((3, 3)) / 9)
    operations.sharpen(image)
    for mode in operations.MODES:
        operations.resize(image, (20, 40), mode)
    operations.gaussian_noise(image, rng, 5.0)
    operations.poisson_noise(image, rng, 1.0)
    operations.jpeg(image, 50)


@pytest.mark.parametrize("shape, dtype", [((4, 4), np.uint8), ((4, 4, 4), np.uint8), ((4, 4, 3), np.float64)])
def test_other_arrays_are_refused(shape, dtype):
    with pytest.raises(DataError, match=r"give \(H, W, 3\) RGB, uint8 or float32"):
        operations.as_float(np.zeros(shape, dtype))


def test_grain_has_its_deviation_and_no_colour(gray):
    noise = operations.grain(gray, np.random.default_rng(0), 8.0, 1.0) - gray
    assert np.all(noise[..., :2] == noise[..., 1:])
    assert noise.std() * 255 == pytest.approx(8.0, rel=0.02)


def test_grain_is_coarser_the_larger_it_is(gray):
    """Neighbours of Gaussian-smoothed noise correlate by exp(-1 / (4 s^2)) at a deviation of s pixels."""
    for size in (0.8, 1.5):
        noise = operations.grain(gray, np.random.default_rng(1), 8.0, size)[..., 0] - 0.5
        correlation = np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())[0, 1]
        assert correlation == pytest.approx(np.exp(-1 / (4 * size**2)), abs=0.04)


def test_unsharp_masking_adds_the_difference_from_an_average(image):
    smooth = ndimage.gaussian_filter(image.astype(float), (1.2, 1.2, 0), mode="mirror", truncate=4)
    expected = (image + 0.6 * (image - smooth)).clip(0, 1)
    np.testing.assert_allclose(operations.unsharp(image, 0.6, 1.2), expected, atol=2e-3)
    np.testing.assert_array_equal(operations.unsharp(image, 0.0, 1.2), image)


def test_webp_loses_more_at_low_quality_and_keeps_colours(image):
    errors = [np.square(operations.webp(image, quality) - image).mean() for quality in (10, 90)]
    assert errors[0] > errors[1] > 0
    red = np.zeros((16, 16, 3), np.float32) + np.array([0.8, 0.2, 0.1], np.float32)
    assert np.abs(operations.webp(red, 95) - red).max() < 0.03
