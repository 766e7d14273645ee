"""The tables of docs/one_step.md, for the shipped preset: python -m benchmarks.one_step --lpips DIR.

Forty crops of the suite `photos`: as the suite has them (x4); with noise and JPEG, with noise alone and as they are, at
their own size (x1); at half of it with noise and JPEG (x2). `--weights DIR` measures other weights.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from PIL import Image

from diffbir_jax.console.process import configure
from diffbir_jax.data.operations import as_float, gaussian_noise, jpeg
from diffbir_jax.evaluation.metric import Setup
from diffbir_jax.evaluation.registry import METRICS
from diffbir_jax.evaluation.suites.flags import SUITES
from diffbir_jax.imaging.bytes import enlarge, to_depth
from diffbir_jax.metrics.detail import grid_ratio
from diffbir_jax.metrics.fidelity import psnr
from diffbir_jax.models.presets import TASKS
from diffbir_jax.restoration.restorer import Restorer

Images = list[np.ndarray]
Score = Callable[[np.ndarray, np.ndarray], float]
# The columns of the table at x4. NIQE needs no ground truth; the others compare with it.
COLUMNS = ("psnr", "ssim", "lpips", "lpips_vgg", "dists", "niqe", "spectral", "energy")
FAST = ("psnr", "ssim", "lpips", "niqe", "spectral", "energy")


class Case(NamedTuple):
    """Inputs made of the crops.

    Attributes:
        upscale: side of a crop / side of its input.
        noise: standard deviation in levels of 255.
        quality: of JPEG; None is no JPEG.
        gray: whether the crops are gray.
    """

    upscale: float
    noise: float = 0.0
    quality: int | None = None
    gray: bool = False


CASES = {
    "x1, noise 15, JPEG 50": Case(1.0, 15.0, 50),
    "x1, noise 15": Case(1.0, 15.0),
    "x1, noise 5, JPEG 80": Case(1.0, 5.0, 80),
    "x1, JPEG 75": Case(1.0, 0.0, 75),
    "x1, clean": Case(1.0),
    "x1, gray, noise 15, JPEG 50": Case(1.0, 15.0, 50, gray=True),
    "x2, noise 15, JPEG 50": Case(2.0, 15.0, 50),
}


def crops(suite: str, kind: str) -> Images:
    """The suite's ground truths ("gt") or inputs at x4 ("lq"), (H, W, 3) uint8 each, by name."""
    folder = SUITES / suite
    return [
        np.asarray(Image.open(path).convert("RGB"))
        for path in sorted(folder.rglob("*.png"))
        if kind in path.parts
    ]


def degraded(case: Case, truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A crop after area reduction, noise and JPEG, in this order: (H, W, 3) uint8."""
    side = round(case.upscale)
    image = as_float(truth)
    image = image.reshape(len(image) // side, side, image.shape[1] // side, side, 3).mean((1, 3))
    if case.noise:
        image = gaussian_noise(image.astype(np.float32), rng, case.noise)
    return to_depth(image if case.quality is None else jpeg(image, case.quality), np.uint8)


def in_gray(image: np.ndarray) -> np.ndarray:
    """The luma of an image in three channels."""
    return np.asarray(Image.fromarray(image).convert("L").convert("RGB"))


def own_size(case: Case, truths: Images, restorer: Restorer, lpips: Score) -> str:
    """Cells of a row: PSNR and LPIPS before and after, on how many photos they are better, worst PSNR, grids."""
    truths = [in_gray(truth) for truth in truths] if case.gray else truths
    rng = np.random.default_rng(0)
    inputs = [degraded(case, truth, rng) for truth in truths]
    results = [each.image for each in restorer.restore(inputs, upscale=case.upscale)]
    given = [enlarge(each, case.upscale) if case.upscale > 1 else each for each in inputs]
    fidelity, perceived = (
        [pairs(score, images, truths) for images in (given, results)] for score in (psnr, lpips)
    )
    colour = max(int(np.ptp(each, axis=2).max()) for each in results) if case.gray else None
    cells = [
        f"{fidelity[0].mean():.2f} -> {fidelity[1].mean():.2f}",
        f"{(fidelity[1] > fidelity[0]).sum()}",
        f"{perceived[0].mean():.3f} -> {perceived[1].mean():.3f}",
        f"{(perceived[1] < perceived[0]).sum()}",
        f"{fidelity[1].min():.2f}",
        *(f"{grid_ratio(given, period):.3f} -> {grid_ratio(results, period):.3f}" for period in (4, 8)),
    ]
    return " | ".join(cells) + ("" if colour is None else f" | colour {colour}")


def pairs(score: Score, images: Images, truths: Images) -> np.ndarray:
    """A score of each pair."""
    return np.array([score(image, truth) for image, truth in zip(images, truths, strict=True)])


def rows_at_4(suite: str, restorer: Restorer, columns: Sequence[str], setup: Setup) -> dict[str, str]:
    """Cells of bicubic, stage 1 and the result at x4; the last cell is the grid of period 4."""
    truths, inputs = crops(suite, "gt"), crops(suite, "lq")
    results = restorer.restore(inputs, upscale=4.0)
    methods = {
        "bicubic": [enlarge(each, 4.0) for each in inputs],
        "stage 1": [each.stage1 for each in results],
        "result": [each.image for each in results],
    }
    return {name: cells(images, truths, columns, setup) for name, images in methods.items()}


def cells(images: Images, truths: Images, columns: Sequence[str], setup: Setup) -> str:
    """The means of the columns."""
    found = [mean_score(name, images, truths, setup) for name in columns]
    return " | ".join(f"{value:.3f}" for value in (*found, grid_ratio(images, 4)))


def loaded(name: str, setup: Setup) -> Callable[..., float]:
    """The scoring function of a metric of pairs or of single images."""
    return cast(Callable[..., float], METRICS[name].load(setup))


def mean_score(name: str, images: Images, truths: Images, setup: Setup) -> float:
    """The mean of a metric over the images."""
    score = loaded(name, setup)
    given = zip(images, truths, strict=True) if METRICS[name].kind == "reference" else zip(images)
    return float(np.mean([score(*each) for each in given]))


def heading(names: Sequence[str]) -> str:
    """The first two lines of a table."""
    return f"\n| {' | '.join(names)} |\n|{'---|' * len(names)}"


def print_at_4(restorer: Restorer, columns: Sequence[str], setup: Setup) -> None:
    """Print the table at x4, of both suites."""
    print(heading(["suite", "x4", *columns, "grid 4"]))
    for suite in ("photos", "tiny"):
        for name, row in rows_at_4(suite, restorer, columns, setup).items():
            print(f"| {suite} | {name} | {row} |", flush=True)


def print_own_size(restorer: Restorer, setup: Setup) -> None:
    """Print the table at x1 and x2."""
    print(heading(["input", "PSNR", "better", "LPIPS", "better", "worst PSNR", "grid 4", "grid 8"]))
    lpips, truths = loaded("lpips", setup), crops("photos", "gt")
    for name, case in CASES.items():
        print(f"| {name} | {own_size(case, truths, restorer, lpips)} |", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lpips", type=Path, required=True, help="folder of the weights of LPIPS and DISTS")
    parser.add_argument("--weights", type=Path, help="folder of weights (default: the shipped ones)")
    parser.add_argument("--task", choices=TASKS, default="sr", help="which stage 1 (default: %(default)s)")
    parser.add_argument("--only", choices=["x4", "own"], help="one of the two tables")
    parser.add_argument("--fast", action="store_true", help="without the metrics that use VGG16")
    args = parser.parse_args(argv)
    configure("fp32")
    restorer, setup = Restorer.load("one-step", args.weights, task=args.task), Setup(weights=args.lpips)
    if args.only != "own":
        print_at_4(restorer, FAST if args.fast else COLUMNS, setup)
    if args.only != "x4":
        print_own_size(restorer, setup)


if __name__ == "__main__":
    main()
