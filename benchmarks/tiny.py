"""What the shipped `tiny` preset reaches on four held-out pictures: python -m benchmarks.tiny [--weights DIR].

Centre 256x256 crops of astronaut, chelsea, coffee and rocket (scikit-image), degraded x4 with a fixed seed. Spectral
distance alone can be won with noise, and local energy correlation alone with blur: read them together, beside the two
rows that only add noise or sharpening to stage 1.
"""

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path

import cv2
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from diffbir_jax.imaging.bytes import to_bytes, to_depth
from diffbir_jax.imaging.colour import wavelet_colour
from diffbir_jax.metrics.detail import local_energy_correlation, spectral_distance
from diffbir_jax.metrics.fidelity import psnr, ssim
from diffbir_jax.restoration.defaults import DEFAULTS
from diffbir_jax.restoration.generator import apply_jit
from diffbir_jax.restoration.restorer import Restored, Restorer
from scripts.make_demo import PICTURES, degraded, reference

GUIDANCE_SCALES = (4.0, 7.0, 13.0)
SEED = 1
Row = dict[str, float]


def score(images: list[np.ndarray], references: list[np.ndarray]) -> Row:
    """Return the mean of each metric over (H, W, 3) uint8 pairs."""
    metrics: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
        "PSNR": psnr,
        "SSIM": ssim,
        "spectral": spectral_distance,
        "energy": local_energy_correlation,
    }
    pairs = list(zip(images, references))
    return {name: float(np.mean([metric(a, b) for a, b in pairs])) for name, metric in metrics.items()}


def add_noise(image: np.ndarray, sigma: float) -> np.ndarray:
    """Add grey Gaussian noise of `sigma` 8-bit levels, from a fixed seed."""
    noise = sigma * np.random.default_rng(0).standard_normal((*image.shape[:2], 1))
    return to_depth((image + noise) / 255, np.uint8)


def unsharp(image: np.ndarray) -> np.ndarray:
    """Unsharp mask of radius 1.5 pixels and amount 1."""
    sharp = 2.0 * image - cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1.5)
    return to_depth(sharp / 255, np.uint8)


def noise_of_equal_spectrum(stage1: list[np.ndarray], references: list[np.ndarray], wanted: float) -> float:
    """Return the noise sigma (8-bit levels) at which stage 1 has the spectral distance `wanted`, by bisection."""
    low, high = 0.0, 8.0
    for _ in range(12):
        middle = (low + high) / 2
        noisy = score([add_noise(i, middle) for i in stage1], references)["spectral"]
        low, high = (middle, high) if noisy > wanted else (low, middle)
    return high


def through_vae(restorer: Restorer, image: np.ndarray) -> np.ndarray:
    """Return the decoder's image of the stage-1 latent: stage 2 without any diffusion."""
    clean, vae = jnp.asarray(image[None], jnp.float32) / 255.0, restorer.preset.make_vae()
    decoded = apply_jit(vae, restorer.params["vae"], 2.0 * clean - 1.0)
    corrected = wavelet_colour((decoded + 1.0) / 2.0, clean, restorer.preset.colour_levels)
    return np.asarray(to_bytes(corrected, image.shape[:2]))[0]


def table(restorer: Restorer, scales: tuple[float, ...] = GUIDANCE_SCALES) -> dict[str, Row]:
    """Return the metrics of every row; the row "default" is the preset's operating point."""
    references = [reference(name) for name in PICTURES]
    inputs = [degraded(name, SEED) for name in PICTURES]
    default = DEFAULTS[restorer.preset.name]

    def restore(scale: float) -> list[Restored]:
        return restorer.restore(inputs, 4.0, dataclasses.replace(default, guidance_scale=scale))

    results = {
        scale: restore(scale)
        for scale in tqdm(sorted({0.0, default.guidance_scale, *scales}), unit="setting")
    }
    best = results[default.guidance_scale]
    stage1 = [r.stage1 for r in best]
    generated = score([r.image for r in best], references)
    sigma = noise_of_equal_spectrum(stage1, references, generated["spectral"])
    rows = {
        "bicubic": score([r.upscaled for r in best], references),
        "RM": score(stage1, references),
        f"RM + noise {sigma:.2f}": score([add_noise(i, sigma) for i in stage1], references),
        "RM + unsharp mask": score([unsharp(i) for i in stage1], references),
        "VAE(RM)": score([through_vae(restorer, i) for i in stage1], references),
    }
    for scale, restored in results.items():
        name = "no guidance" if scale == 0 else f"guidance {scale:g}"
        rows[name] = score([r.image for r in restored], references)
    return rows | {"default": generated}


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, help="folder of weights (default: the shipped ones)")
    rows = table(Restorer.load("tiny", parser.parse_args().weights))
    print("| | PSNR (dB) | SSIM | spectral distance | local energy correlation |\n|---|---|---|---|---|")
    for name, r in rows.items():
        print(f"| {name} | {r['PSNR']:.2f} | {r['SSIM']:.3f} | {r['spectral']:.2f} | {r['energy']:.3f} |")


if __name__ == "__main__":
    main()
