"""The published versions at full size on random weights: does the whole path hold, in how much time and memory?

    python -m benchmarks.full_size --version v2 --weights DIR

writes random weights of the version's networks to DIR (6.7 GB; kept for the next run) and runs `sample.py` on a 512x512
image. The result is noise, not a picture: the weights say nothing.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffbir_jax.models.presets import TASKS, Preset, get_preset
from diffbir_jax.weights.loading import abstract_params
from diffbir_jax.weights.safetensors import save_weights

ROOT = Path(__file__).parents[1]
SIDE = 512


def random_params(shapes: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Draw parameters that keep activations of order one: kernels by fan-in, scales about 1, the rest small."""

    def draw(name: str, x: Any) -> np.ndarray:
        noise = rng.standard_normal(x.shape, np.float32)
        if name == "kernel":
            return noise / np.float32(np.sqrt(np.prod(x.shape[:-1])))
        return np.float32(1) + np.float32(0.1) * noise if name == "scale" else np.float32(0.05) * noise

    return {k: random_params(v, rng) if isinstance(v, Mapping) else draw(k, v) for k, v in shapes.items()}


def write_weights(preset: Preset, folder: Path) -> None:
    """Write random weights of the preset's networks, one at a time, those that `folder` lacks."""
    for module, shapes in abstract_params(preset).items():
        path = folder / f"{getattr(preset.files, module)}.safetensors"
        if not path.is_file():
            save_weights(path, random_params(shapes, np.random.default_rng(0)), preset.header(module))
            print(f"{path}: {path.stat().st_size / 1e9:.2f} GB of random weights", flush=True)


def run(args: argparse.Namespace, upscale: float, side: int) -> None:
    """Run sample.py as users do, and print how long it took and its peak memory."""
    with tempfile.TemporaryDirectory() as work:
        source = Path(work) / "input.png"
        pixels = np.random.default_rng(0).integers(0, 256, (side // 8, side // 8, 3), np.uint8)
        Image.fromarray(pixels).resize((side, side)).save(source)
        command = [sys.executable, str(ROOT / "sample.py"), "--input", str(source), "--output", f"{work}/out"]
        command += ["--version", args.version, "--task", args.task, "--weights", str(args.weights)]
        command += ["--upscale", f"{upscale:g}", "--steps", str(args.steps), "--precision", args.precision]
        begin = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - begin
        spread = np.asarray(Image.open(f"{work}/out/input.png")).std()
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(
        f"{args.version} {args.task} {args.precision}: {seconds:.0f} s, peak {peak:.1f} GiB, pixel std {spread:.0f}"
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", choices=("v1", "v2", "v2.1"), default="v2")
    parser.add_argument("--task", choices=TASKS, default="sr")
    parser.add_argument("--weights", type=Path, required=True, help="folder for the random weights")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    args = parser.parse_args()
    preset = get_preset(args.version, args.task)
    write_weights(preset, args.weights)
    upscale = float(preset.rm.scale) if preset.rm else 1.0
    run(args, upscale, round(SIDE / upscale))


if __name__ == "__main__":
    main()
