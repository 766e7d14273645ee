"""PSNR, SSIM and colour conversion against the reference's numbers and scikit-image."""

from pathlib import Path

import numpy as np
import pytest
from skimage import data
from skimage.metrics import structural_similarity

from diffbir_jax.metrics import fidelity

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "image_ops.npz")
CONTENT, STYLE = (GOLDEN[k][0].transpose(1, 2, 0) for k in ("content", "style"))


def test_psnr():
    assert fidelity.psnr(CONTENT, STYLE) == pytest.approx(GOLDEN["psnr"][0], abs=1e-5)


def test_psnr_of_luma_without_the_border():
    result = fidelity.psnr(CONTENT, STYLE, y_only=True, crop=4)
    assert result == pytest.approx(GOLDEN["psnr_y_crop4"][0], abs=1e-5)


def test_psnr_closed_form():
    image = np.full((8, 8, 3), 100, np.uint8)
    assert fidelity.psnr(image, image + np.uint8(51)) == pytest.approx(-20 * np.log10(0.2))
    assert fidelity.psnr(image, image) == np.inf


def test_ycbcr():
    golden = GOLDEN["ycbcr"][0].transpose(1, 2, 0)
    np.testing.assert_allclose(fidelity.rgb_to_ycbcr(CONTENT), golden, atol=1e-5)


@pytest.mark.parametrize("sigma", [0, 5, 40])
def test_ssim_equals_scikit_image(sigma):
    reference = data.astronaut()[100:180, 100:201]
    noise = sigma * np.random.default_rng(0).standard_normal(reference.shape)
    image = np.clip(reference + noise, 0, 255).astype(np.uint8)
    expected = structural_similarity(
        image, reference, channel_axis=-1, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, data_range=255,
    )  # fmt: skip
    assert fidelity.ssim(image, reference) == pytest.approx(expected, abs=1e-4)


def test_errors_say_what_is_wrong():
    image = np.zeros((10, 12, 3), np.uint8)
    with pytest.raises(ValueError, match=r"10x12"):
        fidelity.ssim(image, image)
    with pytest.raises(ValueError, match=r"\(10, 12, 3\).*\(12, 10, 3\)"):
        fidelity.psnr(image, image.transpose(1, 0, 2))
    with pytest.raises(ValueError, match="crop=5"):
        fidelity.psnr(image, image, crop=5)
    with pytest.raises(TypeError, match="int32"):
        fidelity.psnr(image.astype(np.int32), image.astype(np.int32))
