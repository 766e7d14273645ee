"""The shipped one-step model keeps what docs/one_step.md says of it, with a margin below the measured figures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffbir_jax.data.operations import as_float, gaussian_noise, jpeg
from diffbir_jax.evaluation.suites import spec
from diffbir_jax.imaging.bytes import enlarge, to_depth
from diffbir_jax.metrics.detail import grid_ratio, spectral_distance
from diffbir_jax.metrics.fidelity import psnr
from diffbir_jax.models.presets import ONE_STEP
from diffbir_jax.restoration.defaults import default_options
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.weights.loading import weight_files

PICTURES = Path(spec.__file__).parent / "photos" / "held_out"


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    return Restorer.load("one-step")


def pictures(kind: str, every: int = 1) -> list[np.ndarray]:
    """One of `every` so many of the suite's 40: "gt" (256x256) or "lq" (64x64)."""
    return [np.asarray(Image.open(path)) for path in sorted((PICTURES / kind).glob("*.png"))[::every]]


def mean(metric, images: list[np.ndarray], references: list[np.ndarray]) -> float:
    return float(np.mean([metric(a, b) for a, b in zip(images, references)]))


def test_noise_and_jpeg_at_the_photos_own_size(restorer: Restorer) -> None:
    """Stage 1 alone: at upscale 1 stage 2 does not run."""
    truths, rng = pictures("gt", 5), np.random.default_rng(0)
    inputs = [to_depth(jpeg(gaussian_noise(as_float(x), rng, 15.0), 50), np.uint8) for x in truths]
    results = restorer.restore(inputs, upscale=1.0)
    assert all(np.array_equal(x.image, x.stage1) for x in results)
    images = [x.image for x in results]
    assert mean(psnr, images, truths) >= mean(psnr, inputs, truths) + 0.5


@pytest.mark.slow
def test_detail_at_x4_without_a_grid(restorer: Restorer) -> None:
    """Enlarging leaves a grid of the input's pixels."""
    truths, inputs = pictures("gt", 2), pictures("lq", 2)
    images = [x.image for x in restorer.restore(inputs, upscale=4.0)]
    bicubic = [enlarge(x, 4.0) for x in inputs]
    assert mean(spectral_distance, images, truths) <= 0.4 * mean(spectral_distance, bicubic, truths)
    assert mean(psnr, images, truths) >= mean(psnr, bicubic, truths)
    assert grid_ratio(bicubic, 4) > 1.4
    assert grid_ratio(images, 4) == pytest.approx(1.0, abs=0.05)


def line_energies(images: list[np.ndarray]) -> np.ndarray:
    """The mean squared difference across the lines between pixels 4k - 1 + i and 4k + i, for i = 0 to 3; both axes."""
    both = [
        np.square(np.diff(x.astype(float).mean(2), axis=axis)).mean(1 - axis)
        for x in images
        for axis in (0, 1)
    ]
    return np.mean([[x[i - 1 + 4 * (i == 0) :: 4].mean() for i in range(4)] for x in both], axis=0)


def shifted(images: list[np.ndarray], count: int) -> list[np.ndarray]:
    """Each image moved by 0 to `count` - 1 pixels along both axes: whatever grid it has falls on all places alike."""
    return [x[i : i - count, i : i - count] for x in images for i in range(count)]


@pytest.mark.slow
def test_the_networks_draw_no_grid(restorer: Restorer) -> None:
    """Within 2 %, on inputs whose own grid (of JPEG, or of the enlarged pixels) is averaged out."""
    rng = np.random.default_rng(0)
    inputs = [to_depth(jpeg(gaussian_noise(as_float(x), rng, 15.0), 50), np.uint8) for x in pictures("gt", 5)]
    energies = line_energies([x.image for x in restorer.restore(shifted(inputs, 8), upscale=1.0)])
    assert energies[0] == pytest.approx(energies[1:].mean(), rel=0.02)
    halves = [x[:64, :64] for x in inputs]
    energies = line_energies([x.image for x in restorer.restore(shifted(halves, 4), upscale=2.0)])
    # A pixel of the input is two of the result, so only lines of the same kind are compared.
    assert energies[0] == pytest.approx(energies[2], rel=0.02)


@pytest.mark.slow
def test_seeds_differ_a_little(restorer: Restorer) -> None:
    first, second = restorer.variants(pictures("lq", 40)[0], 4.0, default_options("one-step"), 2)
    difference = np.abs(first.image.astype(int) - second.image)
    assert 0 < difference.mean() < 3


def test_stage_2_takes_part_from_one_and_a_half_on() -> None:
    """By the square root of what the upscale adds to 1, relative to 3."""
    assert [ONE_STEP.detail(x) for x in (1.0, 1.4, 1.75, 4.0, 8.0)] == [0.0, 0.0, 0.5, 1.0, 1.0]
    assert [ONE_STEP.works_at(x) for x in (0.5, 1.0, 1.4, 1.5, 2.0, 4.0, 8.0)] == [1, 1, 1.4, 4, 4, 4, 4]


@pytest.mark.slow
@pytest.mark.slow
def test_noise_without_jpeg_goes_and_texture_stays(restorer: Restorer) -> None:
    """At the photo's own size. JPEG weakens noise, so noise alone is another task."""
    truths, rng = pictures("gt", 5), np.random.default_rng(0)
    inputs = [to_depth(gaussian_noise(as_float(x), rng, 15.0), np.uint8) for x in truths]
    images = [x.image for x in restorer.restore([*inputs, *truths], upscale=1.0)]
    assert mean(psnr, images[: len(truths)], truths) >= mean(psnr, inputs, truths) + 5.0
    assert min(psnr(x, truth) for x, truth in zip(images[len(truths) :], truths)) >= 38.0


def test_size() -> None:
    files = weight_files(ONE_STEP, None).values()
    assert len(files) == 4 and sum(file.stat().st_size for file in files) <= 20e6
