"""PSNR, SSIM and colour conversion against the reference's numbers and scikit-image."""

from pathlib import Path

import numpy as np
import pytest
from skimage import data
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from diffbir_jax.metrics import fidelity
from tests.metrics.pictures import PAIRS

# Of BasicSR 1.4.2, as test_niqe.py says.
BASICSR = np.load(Path(__file__).with_name("basicsr.npz"))
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


def scikit_image(image: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """PSNR and SSIM of images in [0, 255], with colours on the last axis if there are any."""
    similarity = structural_similarity(
        image, reference, channel_axis=-1 if image.ndim == 3 else None, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, data_range=255,
    )  # fmt: skip
    return peak_signal_noise_ratio(reference, image, data_range=255), similarity


@pytest.mark.parametrize("crop", [0, 4])
@pytest.mark.parametrize("y_only", [False, True])
@pytest.mark.parametrize("pair", PAIRS)
def test_psnr_and_ssim_equal_scikit_image(pair, y_only, crop):
    image, reference = PAIRS[pair]
    inside = slice(crop, -crop or None)
    images = [rgb2ycbcr(x)[..., 0] if y_only else x for x in (image, reference)]
    expected = scikit_image(*(x[inside, inside] for x in images))
    assert fidelity.psnr(image, reference, y_only=y_only, crop=crop) == pytest.approx(expected[0], abs=1e-9)
    assert fidelity.ssim(image, reference, y_only=y_only, crop=crop) == pytest.approx(expected[1], abs=1e-9)


@pytest.mark.parametrize("crop", [0, 4])
@pytest.mark.parametrize("y_only", [False, True])
@pytest.mark.parametrize("pair", PAIRS)
def test_psnr_and_ssim_equal_basicsr(pair, y_only, crop):
    """Its Y channel is in single precision."""
    found = [metric(*PAIRS[pair], y_only=y_only, crop=crop) for metric in (fidelity.psnr, fidelity.ssim)]
    key = f"{pair}|{'y' if y_only else 'rgb'}|{crop}"
    np.testing.assert_allclose(found, [BASICSR[f"{key}|psnr"], BASICSR[f"{key}|ssim"]], atol=1e-6, rtol=0)


def test_ssim_of_equal_images():
    image = data.astronaut()[:40, :50]
    assert fidelity.ssim(image, image) == pytest.approx(1, abs=1e-12)
    assert fidelity.ssim(image[..., 0], image[..., 0], crop=3) == pytest.approx(1, abs=1e-12)


def test_errors_say_what_is_wrong():
    image = np.zeros((10, 12, 3), np.uint8)
    with pytest.raises(ValueError, match=r"10x12"):
        fidelity.ssim(image, image)
    with pytest.raises(ValueError, match=r"\(10, 12, 3\).*\(12, 10, 3\)"):
        fidelity.psnr(image, image.transpose(1, 0, 2))
    with pytest.raises(ValueError, match="crop=5"):
        fidelity.psnr(image, image, crop=5)
    with pytest.raises(ValueError, match="crop=-1"):
        fidelity.ssim(image, image, crop=-1)
    with pytest.raises(ValueError, match="8x10 with crop=1"):
        fidelity.ssim(image, image, crop=1)
    with pytest.raises(ValueError, match=r"needs RGB images .* \(10, 12\)"):
        fidelity.psnr(image[..., 0], image[..., 0], y_only=True)
    with pytest.raises(TypeError, match="int32"):
        fidelity.psnr(image.astype(np.int32), image.astype(np.int32))
