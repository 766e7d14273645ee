"""What a LoRA of `tiny` changes on photos of its kind and on others.

    python -m benchmarks.finetune --lora work/snow/export/lora.safetensors --lpips work/metrics/lpips_alex.safetensors \
        --kind snow1.jpg snow4.jpg --others city4.jpg fields1.jpg forest1.jpg sea3.jpg

Of each photo, at half its size, the centre 256x256 pixels are degraded as in training, x4, with fixed seeds, and
restored without and with the LoRA. LPIPS (AlexNet) and PSNR are means over the seeds. None of the photos may have been
trained on.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import jax.numpy as jnp
import numpy as np

from configs.common import tiny_config
from diffbir_jax.data.degradation import make_degradation
from diffbir_jax.evaluation.learned import lpips, lpips_shapes
from diffbir_jax.imaging.bytes import to_depth
from diffbir_jax.imaging.reading import read_image
from diffbir_jax.metrics.fidelity import psnr
from diffbir_jax.models.apply import Params
from diffbir_jax.models.backbones import AlexNet
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.weights.safetensors import load_weights

SIDE = 256
Scores = tuple[float, float]


def truth(path: Path) -> np.ndarray:
    """Return the centre of a photo at half its size, (SIDE, SIDE, 3) uint8."""
    photo = read_image(path)
    half = cv2.resize(photo, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    top, left = ((length - SIDE) // 2 for length in half.shape[:2])
    return half[top : top + SIDE, left : left + SIDE]


def inputs(image: np.ndarray, seeds: int) -> list[np.ndarray]:
    """Return an image degraded by each of some seeds, a quarter of its sides, uint8."""
    settings = tiny_config("rm", crop=SIDE, batch_size=1, steps=1, lr=1.0).data.degradation
    degradation = make_degradation(settings.to_dict())
    return [to_depth(degradation(image, np.random.default_rng(seed)).lq, np.uint8) for seed in range(seeds)]


def scores(restorer: Restorer, small: Sequence[np.ndarray], image: np.ndarray, features: Params) -> Scores:
    """Return LPIPS and PSNR (dB) of restored inputs, means."""
    results = [restored.image for restored in restorer.restore(list(small), 4.0)]

    def distance(result: np.ndarray) -> float:
        return float(lpips(AlexNet(), features, jnp.asarray(np.stack([result, image]), jnp.float32) / 255.0))

    return float(np.mean([distance(x) for x in results])), float(np.mean([psnr(x, image) for x in results]))


def rows(
    paths: Sequence[Path], both: Sequence[Restorer], features: Params, seeds: int
) -> list[tuple[Scores, ...]]:
    """Return the scores of each photo without and with the LoRA."""
    found = []
    for path in paths:
        image = truth(path)
        small = inputs(image, seeds)
        found.append(tuple(scores(restorer, small, image, features) for restorer in both))
    return found


def line(name: str, kind: str, before: Sequence[float], after: Sequence[float]) -> str:
    """Return a row of the table."""
    change = 100.0 * (after[0] / before[0] - 1.0)
    cells = (
        name,
        kind,
        f"{before[0]:.4f}",
        f"{after[0]:.4f}",
        f"{change:+.1f} %",
        f"{before[1]:.2f}",
        f"{after[1]:.2f}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lora", required=True, help="FILE[:SCALE] that diffbir finetune wrote")
    parser.add_argument("--lpips", type=Path, required=True, help="weights of LPIPS (docs/evaluation.md)")
    parser.add_argument("--kind", type=Path, nargs="+", required=True, help="held-out photos of the kind")
    parser.add_argument("--others", type=Path, nargs="+", required=True, help="photos of other kinds")
    parser.add_argument("--seeds", type=int, default=8, help="degradations of each photo")
    args = parser.parse_args()
    features = load_weights(args.lpips, lpips_shapes(AlexNet()))
    both = Restorer.load("tiny"), Restorer.load("tiny", lora=[args.lora])
    print(
        "| photo | kind | LPIPS before | after | change | PSNR before, dB | after |\n|---|---|---|---|---|---|---|"
    )
    for kind, paths in (("trained kind", args.kind), ("other", args.others)):
        found = rows(paths, both, features, args.seeds)
        for path, (before, after) in zip(paths, found):
            print(line(path.stem, kind, before, after), flush=True)
        means = np.mean(found, axis=0)
        print(line(f"**mean of {len(found)}**", kind, means[0], means[1]), flush=True)


if __name__ == "__main__":
    main()
