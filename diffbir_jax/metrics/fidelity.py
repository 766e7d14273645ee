"""PSNR and SSIM: the distance of an image to its ground truth, by pixels and by windows.

Images are (H, W) or (H, W, C) arrays, uint8 or float in [0, 1].
"""

import numpy as np

from diffbir_jax.console.errors import UserError

# ITU-R BT.601 for video: rows R, G, B; columns Y, Cb, Cr; 8-bit levels, Y in [16, 235].
_YCBCR = np.array([[65.481, -37.797, 112.0], [128.553, -74.203, -93.786], [24.966, 112.0, -18.214]])
_YCBCR_OFFSET = np.array([16.0, 128.0, 128.0])


def as_float(image: np.ndarray) -> np.ndarray:
    """The image as float64 in [0, 1].

    Args:
        image: uint8, or float already in [0, 1].

    Raises:
        TypeError: another dtype.
    """
    image = np.asarray(image)
    if image.dtype == np.uint8:
        return image.astype(np.float64) / 255
    if not np.issubdtype(image.dtype, np.floating):
        raise TypeError(f"image has dtype {image.dtype}; give uint8, or float in [0, 1]")
    return image.astype(np.float64)


def as_float_pair(image: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both images as float64 in [0, 1].

    Raises:
        TypeError: a dtype that `as_float` refuses.
        ValueError: shapes that differ.
    """
    if np.shape(image) != np.shape(reference):
        raise UserError(f"image {np.shape(image)} and reference {np.shape(reference)} must have one shape")
    return as_float(image), as_float(reference)


def rgb_to_ycbcr(image: np.ndarray) -> np.ndarray:
    """(..., 3) RGB in [0, 1] to Y, Cb, Cr of ITU-R BT.601, divided by 255 (so Y lies in [16, 235] / 255)."""
    return (as_float(image) @ _YCBCR + _YCBCR_OFFSET) / 255


def crop_border(image: np.ndarray, crop: int) -> np.ndarray:
    """(H, W, ...) without `crop` pixels along every edge.

    Raises:
        ValueError: `crop` is negative or leaves nothing.
    """
    height, width = image.shape[:2]
    if not 0 <= 2 * crop < min(height, width):
        raise UserError(
            f"crop={crop} leaves nothing of an image of {height}x{width} pixels; give 0 or a small number"
        )
    return image[crop : height - crop, crop : width - crop]


def psnr(image: np.ndarray, reference: np.ndarray, *, y_only: bool = False, crop: int = 0) -> float:
    """Peak signal-to-noise ratio in dB for a peak of 1; infinite for equal images.

    Equal to BasicSR's `calculate_psnr(crop_border=crop, test_y_channel=y_only)`.

    Args:
        image: (H, W, C), uint8 or float in [0, 1].
        reference: ground truth, like `image`.
        y_only: compare only the BT.601 Y channel of RGB images, in [16, 235] / 255, for the same peak.
        crop: pixels left out along every edge.

    Raises:
        ValueError: different shapes, a Y channel of images that are not RGB, or nothing left after cropping.
    """
    a, b = _compared(image, reference, y_only, crop)
    mse = np.mean((a - b) ** 2)
    return float("inf") if mse == 0 else float(-10 * np.log10(mse))


def gaussian_blur(image: np.ndarray, sigma: float = 1.5, radius: int = 5) -> np.ndarray:
    """Gaussian average over (2 radius + 1)^2 windows inside the image: (H - 2 radius, W - 2 radius, ...)."""
    x = np.arange(-radius, radius + 1)
    kernel = np.exp(-(x**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    # Separable: two passes with 11 taps instead of one with 121.
    rows = np.lib.stride_tricks.sliding_window_view(image, x.size, axis=0) @ kernel
    return np.lib.stride_tricks.sliding_window_view(rows, x.size, axis=1) @ kernel


def ssim(image: np.ndarray, reference: np.ndarray, *, y_only: bool = False, crop: int = 0) -> float:
    """Structural similarity (Wang et al. 2004): 11x11 Gaussian windows, sigma 1.5, K1 0.01, K2 0.03,
    peak 1.

    Population covariances; the mean over all windows that lie inside the image and over the channels.
    Equal to scikit-image's `structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False)` and to BasicSR's `calculate_ssim(crop_border=crop, test_y_channel=y_only)`.

    Args:
        image: (H, W) or (H, W, C), uint8 or float in [0, 1]; at least 11x11 after cropping.
        reference: ground truth, like `image`.
        y_only: as in `psnr`.
        crop: pixels left out along every edge.

    Returns:
        A number in [-1, 1], 1 for equal images.

    Raises:
        ValueError: as in `psnr`, or an image smaller than the window.
    """
    a, b = _compared(image, reference, y_only, crop)
    if min(a.shape[:2]) < 11:
        raise UserError(
            f"SSIM needs at least 11x11 pixels, the image has {a.shape[0]}x{a.shape[1]} with crop={crop}"
        )
    luminance, structure = similarity_maps(a, b)
    return float(np.mean(luminance * structure))


def similarity_maps(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two factors of SSIM: of the means, and of contrast and structure, in every window.

    Args:
        a: (H, W, ...) float64, for a peak of 1.
        b: like `a`.

    Returns:
        Two arrays (H - 10, W - 10, ...), in (0, 1] and [-1, 1].
    """
    mean_a, mean_b = gaussian_blur(a), gaussian_blur(b)
    var_a = gaussian_blur(a * a) - mean_a**2
    var_b = gaussian_blur(b * b) - mean_b**2
    covariance = gaussian_blur(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    # With c3 = c2 / 2, contrast and structure merge into this one factor (Wang et al. 2004, equation 13).
    return luminance, (2 * covariance + c2) / (var_a + var_b + c2)


def _compared(
    image: np.ndarray, reference: np.ndarray, y_only: bool, crop: int
) -> tuple[np.ndarray, np.ndarray]:
    """The arrays that PSNR and SSIM compare."""
    a, b = (crop_border(each, crop) for each in as_float_pair(image, reference))
    if not y_only:
        return a, b
    if a.shape[2:] != (3,):
        raise UserError(f"a Y channel needs RGB images (H, W, 3), got {np.shape(image)}; give y_only=False")
    return rgb_to_ycbcr(a)[..., 0], rgb_to_ycbcr(b)[..., 0]
