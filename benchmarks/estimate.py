"""How far off the degradation estimate is, and what `restore --auto` gains: the tables of docs/estimate.md.

    python -m benchmarks.estimate errors --photos work/photos/held_out
    python -m benchmarks.estimate auto --lpips work/metrics/lpips_alex.safetensors

`errors` degrades crops of held-out photos by the recipe of the training and reads them as `diffbir inspect` does.
`auto` degrades the crops of the suite `photos` and restores them by default and by --auto. Where both have the same
settings, the results are the same and are not made.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from configs.estimate import degradation
from diffbir_jax.console.process import configure
from diffbir_jax.console.tables import markdown_table
from diffbir_jax.data import operations
from diffbir_jax.data.degradation import make_degradation
from diffbir_jax.data.labelled import LabelledBatches
from diffbir_jax.data.photos import CropConfig, load_photos
from diffbir_jax.evaluation.learned import lpips
from diffbir_jax.evaluation.suites.spec import FOLDER
from diffbir_jax.imaging.bytes import resize_bytes, to_depth
from diffbir_jax.imaging.reading import read_image
from diffbir_jax.models.backbones import AlexNet
from diffbir_jax.models.degradation import QUANTITIES
from diffbir_jax.restoration.auto import Choice, choose
from diffbir_jax.restoration.estimate import estimate
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.training.lpips import load_lpips

GOALS = (0.25, 2.0, 8.0, 0.4)
# Ranges of a label in which errors are also told apart.
BINS: Mapping[str, tuple[float, ...]] = {
    "scale": (1.0, 1.001, 2.0, 3.0, 4.1),
    "noise": (0.0, 0.01, 5.0, 15.0, 31.0),
    "quality": (1.0, 50.0, 80.0, 95.0, 100.0, 100.5),
}
SUITE = FOLDER / "photos" / "held_out" / "gt"


def errors(args: argparse.Namespace) -> None:
    """Print mean absolute errors of the estimate on degraded crops of held-out photos."""
    crop = CropConfig(args.size, (0.4, 0.6) if args.size > 200 else (0.3, 0.6))
    batches = LabelledBatches(
        load_photos(args.photos), 1, crop, make_degradation(degradation()), seed=args.seed
    )
    labels, found, expected = [], [], []
    for i in tqdm(range(args.number), "crops"):
        made = batches(i)
        read = estimate(made["lq"][0])
        labels.append(made["labels"][0])
        found.append([getattr(read, name) for name in QUANTITIES])
        expected.append(read.errors)
    truth = np.array(labels)
    off = np.abs(np.array(found) - truth)
    constant = np.nanmean(np.abs(truth - np.nanmedian(truth, 0)), 0)
    rows = [
        ("mean absolute error", *map(form, np.nanmean(off, 0))),
        ("median absolute error", *map(form, np.nanmedian(off, 0))),
        ("expected by the network", *map(form, np.mean(expected, 0))),
        ("always the median", *map(form, constant)),
        ("goal", *map(form, GOALS)),
        ("crops with this label", *map(str, np.sum(~np.isnan(truth), 0))),
    ]
    print(markdown_table(("", *QUANTITIES), rows, range(1, 5)))
    print(markdown_table(("crops with", "number", *QUANTITIES), [*binned(truth, off)], range(1, 6)))


def binned(truth: np.ndarray, off: np.ndarray) -> Iterator[tuple[str, ...]]:
    """Yield rows of mean absolute errors by ranges of each label."""
    for name, ends in BINS.items():
        values = truth[:, QUANTITIES.index(name)]
        for least, most in zip(ends, ends[1:]):
            chosen = (values >= least) & (values < most)
            if chosen.any():
                means = map(form, np.nanmean(off[chosen], 0))
                yield f"{name} {least:g} to {most:g}", str(int(chosen.sum())), *means


def form(value: float) -> str:
    """Return a number with two decimals."""
    return f"{value:.2f}"


Degrade = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def steps(
    blur: float = 0, reduce: float = 1, noise: float = 0, quality: int = 0, enlarge: bool = False
) -> Degrade:
    """Return a degradation of fixed strength; `enlarge` brings the result back to the first size."""

    def degrade(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(H, W, 3) uint8 -> uint8, smaller by `reduce` unless it is enlarged again."""
        x = operations.as_float(image)
        if blur:
            x = cv2.GaussianBlur(x, (0, 0), blur)
        if reduce > 1:
            sides = (round(x.shape[0] / reduce), round(x.shape[1] / reduce))
            x = operations.resize(x, sides, "area")
        x = operations.gaussian_noise(x, rng, noise) if noise else x
        x = operations.jpeg(x, quality) if quality else x
        x = to_depth(x, np.uint8)
        return resize_bytes(x, (image.shape[0], image.shape[1])) if enlarge else x

    return degrade


# Kind -> upscale, degradation.
MIXED: dict[str, tuple[float, Degrade]] = {
    "clean": (1.0, steps()),
    "clean, JPEG 97": (1.0, steps(quality=97)),
    "light (noise 4, JPEG 88)": (1.0, steps(noise=4, quality=88)),
    "heavy (blur 1, noise 20, JPEG 45)": (1.0, steps(1.0, 1, 20, 45)),
    "enlarged x2 (noise 3, JPEG 85)": (1.0, steps(0, 2, 3, 85, True)),
    "enlarged x4 (noise 3, JPEG 85)": (1.0, steps(0, 4, 3, 85, True)),
    "x2 light (noise 3, JPEG 85)": (2.0, steps(0, 2, 3, 85)),
    "x2 heavy (blur 1.5, noise 15, JPEG 50)": (2.0, steps(1.5, 2, 15, 50)),
    "x4 light (noise 3, JPEG 85)": (4.0, steps(0, 4, 3, 85)),
    "x4 heavy (blur 2, noise 12, JPEG 55)": (4.0, steps(2.0, 4, 12, 55)),
}


def auto(args: argparse.Namespace) -> None:
    """Print LPIPS of --auto and of the default on the mixed set."""
    distance, restorer = measure(args.lpips), Restorer.load("one-step")
    rows, gains = [], []
    for kind, (upscale, degrade) in MIXED.items():
        if args.kind and kind not in args.kind:
            continue
        begin = time.process_time()
        found = [
            compare(image, upscale, degrade, restorer, distance, args.all) for image in suite(args.number)
        ]
        differences = np.array([default - chosen for default, chosen, _ in found])
        changed = sum(choice != Choice(why=choice.why) for _, _, choice in found)
        alone = sum(choice.alone for _, _, choice in found)
        gains += [*differences]
        rows.append(
            (
                kind,
                f"{upscale:g}",
                str(len(found)),
                str(alone),
                str(changed - alone),
                *means(found),
                f"{100 * np.mean(differences >= -1e-9):.0f} %",
            )
        )
        print(rows[-1], round(time.process_time() - begin), "s", flush=True)
    head = (
        "kind",
        "upscale",
        "photos",
        "left alone",
        "other settings",
        "default",
        "--auto",
        "at least as good",
    )
    print(markdown_table(head, rows, range(1, 8)))
    gains = np.array(gains)
    print(f"at least as good: {100 * np.mean(gains >= -1e-9):.1f} %; mean gain {gains.mean():.4f} LPIPS")


def means(found: list[tuple[float, float, Choice]]) -> tuple[str, str]:
    """Return the mean LPIPS by default and by --auto; where results are the same and not made, a dash."""
    values = np.array([(default, chosen) for default, chosen, _ in found if not np.isnan(default)])
    known = [pair for pair in values if pair.any()]
    if not known:
        return "-", "-"
    default, chosen = np.mean(known, axis=0)
    return f"{default:.4f}", f"{chosen:.4f}"


def suite(number: int) -> Iterator[np.ndarray]:
    """Yield photos of the suite, evenly spread."""
    paths = sorted(SUITE.glob("*.png"))
    for path in paths[:: max(1, len(paths) // number)][:number]:
        yield read_image(path)


def measure(path: Path) -> Callable[[np.ndarray, np.ndarray], float]:
    """Return LPIPS (AlexNet) of two uint8 images."""
    params = load_lpips(path, net="alex")

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return float(lpips(AlexNet(), params, np.stack([a, b]).astype(np.float32) / 255))

    return distance


def compare(
    image: np.ndarray,
    upscale: float,
    degrade: Degrade,
    restorer: Restorer,
    distance: Callable[[np.ndarray, np.ndarray], float],
    every: bool,
) -> tuple[float, float, Choice]:
    """LPIPS of a photo by default and by --auto, and the choice; 0, 0 if both are the same and not made."""
    given = degrade(image, np.random.default_rng(int(image.sum()) % 2**32))
    choice = choose(estimate(given), upscale)
    if not choice.alone and not choice.options and not every:
        return 0.0, 0.0, choice
    default = restorer.restore(given, upscale).image
    if choice.alone:
        return distance(default, image), distance(given, image), choice
    options = restorer.options(**choice.options)
    chosen = restorer.restore(given, upscale, options).image if choice.options else default
    return distance(default, image), distance(chosen, image), choice


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    programs = parser.add_subparsers(required=True)
    first = programs.add_parser("errors", help="errors of the estimate")
    first.add_argument("--photos", type=Path, required=True, help="folder of held-out photos")
    first.add_argument("--number", type=int, default=500, help="default: %(default)s")
    first.add_argument("--size", type=int, default=256, help="side of the crops (default: %(default)s)")
    first.add_argument("--seed", type=int, default=100, help="default: %(default)s")
    first.set_defaults(run=errors)
    second = programs.add_parser("auto", help="--auto against the default")
    second.add_argument("--lpips", type=Path, required=True, help="lpips_alex.safetensors")
    second.add_argument("--number", type=int, default=40, help="photos (default: %(default)s)")
    second.add_argument("--kind", action="append", metavar="KIND", help="only this kind; may be repeated")
    second.add_argument("--all", action="store_true", help="also restore where both have the same settings")
    second.set_defaults(run=auto)
    args = parser.parse_args()
    configure("fp32")
    args.run(args)


if __name__ == "__main__":
    main()
