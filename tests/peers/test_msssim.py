"""MS-SSIM against pytorch-msssim, whose definition ours follows; its Gaussian window is in single precision."""

import numpy as np
import pytest
import pytorch_msssim
import torch
from skimage import data

from diffbir_jax.metrics.multiscale import ms_ssim
from tests.metrics.pictures import softened, with_noise

TOLERANCE = 1e-5


def check(image: np.ndarray, reference: np.ndarray) -> None:
    a, b = (torch.from_numpy(x.transpose(2, 0, 1) / 255.0)[None] for x in (image, reference))
    wanted = float(pytorch_msssim.ms_ssim(a, b, data_range=1))
    error = abs(ms_ssim(image, reference) - wanted)
    print(f"MS-SSIM {wanted:.6f}: difference from pytorch-msssim {error:.1e}, allowed {TOLERANCE:.0e}")
    assert error < TOLERANCE


@pytest.mark.parametrize("sigma", [0, 10, 60])
@pytest.mark.parametrize("size", [(256, 320), (161, 299)], ids=["even", "odd"])
def test_noise(sigma: float, size: tuple[int, int]) -> None:
    reference = data.chelsea()[: size[0], : size[1]]
    check(with_noise(reference, sigma), reference)


def test_blur() -> None:
    coffee = data.coffee()
    check(softened(coffee), coffee[2:-2, 2:-2])


def test_averages_below_zero_count_as_zero() -> None:
    """The structure of a negative is opposite at every scale."""
    chelsea = data.chelsea()
    check(255 - chelsea, chelsea)
    assert ms_ssim(255 - chelsea, chelsea) == 0
