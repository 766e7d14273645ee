"""FID's distance between two sets of images, given their features."""

import numpy as np

from diffbir_jax.console.errors import UserError


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Frechet distance of the Gaussians fitted to two sets of features (Dowson & Landau 1982).

    |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) of means and sample covariances. With the features of Inception-v3
    it is FID (Heusel et al. 2017). With centred features A and B of n and m rows, the trace of the root is the sum of
    the singular values of A B^T / sqrt((n - 1)(m - 1)). So no root of a possibly singular matrix is needed.

    Args:
        a: (N, D) features of the first set, a row per image.
        b: (M, D) features of the second set.

    N and M should exceed D. Otherwise the covariances are singular, and the distance depends more on the number of
    images than on their content. It falls as either set grows, so compare only distances of sets of the same size.

    Returns:
        A number from 0, 0 for equal sets.

    Raises:
        ValueError: fewer than two rows, different numbers of features, or values that are not finite.
    """
    (mean_a, root_a), (mean_b, root_b) = _moments(a), _moments(b)
    if mean_a.shape != mean_b.shape:
        raise UserError(
            f"sets of {mean_a.size} and {mean_b.size} features per image cannot be compared; use one network"
        )
    common = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    distance = np.sum((mean_a - mean_b) ** 2) + np.sum(root_a**2) + np.sum(root_b**2) - 2 * common
    # Rounding can make the distance of equal sets slightly negative.
    return max(0.0, float(distance))


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, D) -> the mean (D,), and R (min(N, D), D) with R^T R the covariance."""
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise UserError(
            f"a set of features has shape {features.shape}; (N, D) with two or more images N is needed"
        )
    if not np.isfinite(features).all():
        raise UserError("features must be finite; some are infinite or no numbers")
    mean = features.mean(axis=0)
    return mean, np.asarray(np.linalg.qr((features - mean) / np.sqrt(len(features) - 1), mode="r"))
