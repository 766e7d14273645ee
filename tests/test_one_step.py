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


@pytest.mark.slow
def test_seeds_differ_a_little(restorer: Restorer) -> None:
    first, second = restorer.variants(pictures("lq", 40)[0], 4.0, default_options("one-step"), 2)
    difference = np.abs(first.image.astype(int) - second.image)
    assert 0 < difference.mean() < 3


def test_size() -> None:
    assert sum(file.stat().st_size for file in weight_files(ONE_STEP, None).values()) <= 20e6
