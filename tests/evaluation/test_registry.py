import numpy as np
import pytest

from diffbir_jax.evaluation.metric import Setup
from diffbir_jax.evaluation.registry import GROUPS, METRICS, select
from diffbir_jax.metrics.fidelity import psnr, ssim
from tests.micro import picture


def names(*given: str) -> list[str]:
    return [metric.name for metric in select(given)]


def test_metrics_are_selected_by_name_or_group_each_once():
    assert names("ssim", "psnr", "ssim") == ["ssim", "psnr"]
    assert names("fast") == ["psnr", "ssim", "psnr_y", "ssim_y", "ms_ssim", "spectral", "energy", "niqe"]
    assert names("niqe", "fast")[:2] == ["niqe", "psnr"]
    assert names("all") == list(METRICS)
    assert all(name == metric.name for name, metric in METRICS.items())
    assert not GROUPS.keys() & METRICS.keys()


def test_unknown_names_are_told_with_all_that_are_allowed():
    with pytest.raises(
        ValueError, match="no such metric: psn, x; allowed are psnr, ssim, .*; or groups: fast, all"
    ):
        select(["psn", "psnr", "x"])
    with pytest.raises(ValueError, match="no metric given; allowed are psnr"):
        select([])


def test_the_border_is_left_out():
    image, reference = picture(24, 20, 0), picture(24, 20, 1)
    inner = (image[4:-4, 4:-4], reference[4:-4, 4:-4])
    for name, score in (("psnr", psnr), ("ssim", ssim)):
        for suffix, y_only in (("", False), ("_y", True)):
            metric = METRICS[name + suffix]
            assert metric.cropped
            assert metric.load(Setup(crop=4))(image, reference) == score(*inner, y_only=y_only)


def test_psnr_of_identical_images_is_no_number():
    image = picture(16, 16, 0)
    with pytest.raises(ValueError, match="^identical images$"):
        METRICS["psnr"].load(Setup())(image, image)
    gray = np.full((16, 16, 3), 100, np.uint8)
    with pytest.raises(ValueError, match="^identical images in Y$"):
        METRICS["psnr_y"].load(Setup())(gray, gray)
    assert METRICS["ssim"].load(Setup())(image, image) == pytest.approx(1)


def test_the_fast_metrics_score_what_they_say_they_compare():
    image, reference = picture(192, 192, 0), picture(192, 192, 1)
    for metric in select(["fast"]):
        images = [image] if metric.kind == "single" else [image, reference]
        assert np.isfinite(metric.load(Setup())(*images)), metric.name
    assert METRICS["lstd"].load(Setup())([image, image]) == 0
