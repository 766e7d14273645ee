"""ncnn itself on the published Real-ESRGAN x4plus: the same file and the same photo give the same picture."""

from pathlib import Path

import jax
import ncnn
import numpy as np
import pytest

from diffbir_jax.conversion.architectures import BSRNET
from diffbir_jax.conversion.from_torch import convert_file
from diffbir_jax.conversion.ncnn import locate
from diffbir_jax.imaging.reading import read_image
from diffbir_jax.models.bsrnet import BSRNet, BSRNetConfig
from diffbir_jax.weights.safetensors import load_weights, read_metadata

MODEL = "realesrgan-x4plus"
PHOTOS = Path(__file__).parents[2] / "assets" / "demo"
# One step of 8 bits, where the picture is in [0, 1].
TOLERANCE = 1 / 255


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """A crop of a degraded real photo, (1, H, W, 3) in [0, 1]."""
    return read_image(PHOTOS / "chelsea.png")[None, :40, :56].astype(np.float32) / 255


def theirs(path: Path, photo: np.ndarray) -> np.ndarray:
    """ncnn on the CPU in full precision, (1, H, W, 3)."""
    net = ncnn.Net()
    for precision in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage"):
        setattr(net.opt, f"use_{precision}", False)
    net.opt.use_vulkan_compute = False
    net.opt.num_threads = 1  # more wait for each other in busy loops
    assert net.load_param(str(path)) == 0
    assert net.load_model(str(path.with_suffix(".bin"))) == 0
    run = net.create_extractor()
    # A Mat of an array borrows its memory and does not keep it alive: the array outlives the copy.
    pixels = np.ascontiguousarray(photo[0].transpose(2, 0, 1))
    run.input("data", ncnn.Mat(pixels).clone())
    failed, out = run.extract("output")
    assert failed == 0
    return np.array(out).transpose(1, 2, 0)[None]


def test_realesrgan_x4plus(tmp_path: Path, photo: np.ndarray) -> None:
    path = locate(MODEL)
    assert path is not None
    (entry,) = convert_file(MODEL, tmp_path)
    header = read_metadata(tmp_path / f"{entry.module}.safetensors")
    config = BSRNET.revive(header["config"])
    assert config == BSRNetConfig()
    params = load_weights(tmp_path / f"{entry.module}.safetensors", BSRNET.abstract(config))
    ours = np.asarray(jax.jit(BSRNet(config).apply)({"params": params}, photo))
    wanted = theirs(path, photo)
    height, width = photo.shape[1:3]
    assert ours.shape == wanted.shape == (1, 4 * height, 4 * width, 3)
    error = float(np.abs(ours - wanted).max())
    print(f"{height}x{width}: largest difference from ncnn {error:.1e}, allowed {TOLERANCE:.1e}")
    assert error <= TOLERANCE
    # The picture is that photo, four times as large, and not noise.
    means = ours.reshape(1, height, 4, width, 4, 3).mean((2, 4))
    assert np.abs(means - photo).mean() < 0.05
