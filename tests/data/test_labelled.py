"""Labels of degraded crops, from the recorded draws."""

import numpy as np
import pytest

from configs.estimate import degradation
from diffbir_jax.data.degradation import make_degradation
from diffbir_jax.data.kernels import gaussian_kernel
from diffbir_jax.data.labelled import LabelledBatches, kernel_width, labels_of
from diffbir_jax.data.photos import CropConfig
from tests.micro import picture


def test_labels_are_the_recorded_draws():
    drawn = {
        "blur2.kind": "iso",
        "blur2.sigma_x": 2.0,
        "blur2.size": 21,
        "downscale.factor": 4.0,
        "resize.scale": 1.0,
        "noise2.sigma": 7.0,
        "jpeg2.quality": 60,
    }
    # The kernel of 2 pixels is cut off after 5 deviations; of the reduced photo it is half a pixel.
    np.testing.assert_allclose(labels_of(drawn), (0.5, 7, 60, 4), rtol=1e-3)


def test_without_draws_nothing_is_degraded():
    assert labels_of({"one_of.chosen": "quantise"}).tolist() == [0, 0, 100, 1]


def test_noise_and_jpeg_before_enlarging_are_unknown():
    drawn = {"downscale2.factor": 2.0, "noise3.sigma": 7.0, "jpeg3.quality": 60, "resize2.scale": 1.0}
    np.testing.assert_array_equal(labels_of(drawn), (0, np.nan, np.nan, 2))


def test_without_noise_and_jpeg_it_does_not_matter_when_it_was_enlarged():
    assert labels_of({"downscale2.factor": 2.0, "resize2.scale": 1.0}).tolist() == [0, 0, 100, 2]


@pytest.mark.parametrize(
    ("sigma_x", "sigma_y", "theta"), [(0.3, 0.3, 0.0), (2.0, 0.5, 0.7), (1.5, 1.0, -2.0)]
)
def test_width_is_the_second_moment_of_what_a_blur_makes_of_a_point(
    sigma_x: float, sigma_y: float, theta: float
):
    drawn = {"blur.sigma_x": sigma_x, "blur.sigma_y": sigma_y, "blur.theta": theta, "blur.size": 21}
    y, x = np.mgrid[-10:11, -10:11]
    spread = gaussian_kernel(21, sigma_x, sigma_y, theta)
    expected = np.sqrt(np.average((x**2 + y**2) / 2, weights=spread))
    assert kernel_width(drawn) == pytest.approx(expected)


def test_batches_are_a_function_of_their_number():
    batches = LabelledBatches(
        [picture(160, 160, i) for i in range(2)],
        3,
        CropConfig(64, (0.5, 1.0)),
        make_degradation(degradation()),
        seed=4,
    )
    first, again, other = batches(0), batches(0), batches(1)
    assert first["lq"].shape == (3, 64, 64, 3)
    assert first["lq"].dtype == np.uint8
    for name in ("lq", "labels"):
        np.testing.assert_array_equal(first[name], again[name])
    assert (first["lq"] != other["lq"]).any()
