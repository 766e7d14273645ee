"""PSNR and SSIM: how close an image is to its ground truth, pixel by pixel and window by window.

Images are (H, W) or (H, W, C) arrays, uint8 or float in [0, 1].
"""

import numpy as np

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
        raise ValueError(f"image {np.shape(image)} and reference {np.shape(reference)} must have one shape")
    return as_float(image), as_float(reference)


def rgb_to_ycbcr(image: np.ndarray) -> np.ndarray:
    """(..., 3) RGB in [0, 1] to Y, Cb, Cr of ITU-R BT.601, divided by 255 (so Y lies in [16, 235] / 255)."""
    return (as_float(image) @ _YCBCR + _YCBCR_OFFSET) / 255


def psnr(image: np.ndarray, reference: np.ndarray, *, y_only: bool = False, crop: int = 0) -> float:
    """Peak signal-to-noise ratio in dB for a peak of 1; infinite for equal images.

    Args:
        image: (H, W, C), uint8 or float in [0, 1].
        reference: ground truth, like `image`.
        y_only: compare the BT.601 Y channel of RGB images only.
        crop: pixels left out along every edge.

    Raises:
        ValueError: different shapes, or nothing left after cropping.
    """
    a, b = as_float_pair(image, reference)
    if crop:
        a, b = a[crop:-crop, crop:-crop], b[crop:-crop, crop:-crop]
    if a.size == 0:
        raise ValueError(f"crop={crop} leaves nothing of an image of {np.shape(image)[:2]} pixels")
    if y_only:
        a, b = rgb_to_ycbcr(a)[..., 0], rgb_to_ycbcr(b)[..., 0]
    mse = np.mean((a - b) ** 2)
    return float("inf") if mse == 0 else float(-10 * np.log10(mse))


def gaussian_blur(image: np.ndarray, sigma: float = 1.5, radius: int = 5) -> np.ndarray:
    """Gaussian average over (2 radius + 1)^2 windows, where they fit: (H - 2 radius, W - 2 radius, ...)."""
    x = np.arange(-radius, radius + 1)
    kernel = np.exp(-(x**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    rows = np.lib.stride_tricks.sliding_window_view(image, x.size, axis=0) @ kernel
    return np.lib.stride_tricks.sliding_window_view(rows, x.size, axis=1) @ kernel


def ssim(image: np.ndarray, reference: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004): 11x11 Gaussian windows, sigma 1.5, K1 0.01, K2 0.03,
    peak 1.

    Population covariances; the mean over all windows that lie inside the image and over the channels.
    Equal to scikit-image's `structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False)`.

    Args:
        image: (H, W) or (H, W, C), uint8 or float in [0, 1]; at least 11x11.
        reference: ground truth, like `image`.

    Returns:
        A number in [-1, 1], 1 for equal images.

    Raises:
        ValueError: different shapes, or an image smaller than the window.
    """
    a, b = as_float_pair(image, reference)
    if min(a.shape[:2]) < 11:
        raise ValueError(f"SSIM needs at least 11x11 pixels, the image has {a.shape[0]}x{a.shape[1]}")
    mean_a, mean_b = gaussian_blur(a), gaussian_blur(b)
    var_a = gaussian_blur(a * a) - mean_a**2
    var_b = gaussian_blur(b * b) - mean_b**2
    covariance = gaussian_blur(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    return float(np.mean(luminance * structure))
