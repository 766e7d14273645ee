"""What the published degradations do to photos: python -m benchmarks.degradations [--photos DIR].

Crops of 512x512 pixels, each with parameters of its own: how strong each degradation is (PSNR of its input against its
target) and how long it takes, what Real-ESRGAN's draws, and what each operation costs. Prints the tables of
docs/degradations.md and draws its picture.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from diffbir_jax.data import operations
from diffbir_jax.data.degradation import KINDS, make_degradation
from diffbir_jax.data.photos import CropConfig, load_photos, random_crop
from diffbir_jax.data.sensor import sensor_noise
from diffbir_jax.data.steps import Record
from diffbir_jax.metrics.fidelity import psnr

CROP = CropConfig(512, (0.5, 1.0))
QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
SHOWN = (
    *("blur.kind", "blur.sigma_x", "resize.scale", "noise.sigma", "poisson.scale", "jpeg.quality"),
    *("blur2.sigma_x", "resize2.scale", "noise2.sigma", "sinc.cutoff", "jpeg2.quality"),
)
PUBLISHED = [kind for kind in KINDS if kind != "compose"]


@dataclass
class Samples:
    """What a degradation did: PSNR in dB, milliseconds of a processor and draws, sample by sample."""

    psnr: list[float] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)

    def drawn(self, key: str) -> list:
        """The values of one parameter, where it was drawn."""
        return [record[key] for record in self.records if key in record]


def measure(kind: str, photos: list[np.ndarray], count: int) -> Samples:
    """Degrade `count` random crops with the published ranges, each from a seed of its own."""
    degradation, samples = make_degradation({"kind": kind}), Samples()
    for index in tqdm(range(count), desc=kind):
        rng = np.random.default_rng((0, index))
        crop = random_crop(photos[rng.integers(len(photos))], rng, CROP)
        begin = time.process_time()
        pair = degradation(crop, rng)
        samples.milliseconds.append(1000 * (time.process_time() - begin))
        samples.psnr.append(psnr(pair.lq, pair.hq))
        samples.records.append(pair.record)
    return samples


def summary(values: list[float]) -> str:
    """Mean and quantiles, as cells of a table."""
    return " | ".join(f"{value:.3g}" for value in (np.mean(values), *np.quantile(values, QUANTILES)))


def show_degradations(results: dict[str, Samples]) -> None:
    """Print strength and time of each degradation."""
    print("\n| | mean | least | 5 % | median | 95 % | most |\n|---|---|---|---|---|---|---|")
    for kind, samples in results.items():
        print(f"| `{kind}`, PSNR (dB) | {summary(samples.psnr)} |")
    for kind, samples in results.items():
        print(f"| `{kind}`, ms | {summary(samples.milliseconds)} |")


def show_parameters(samples: Samples) -> None:
    """Print what was drawn: numbers by their quantiles, words by their shares."""
    keys = sorted({key for record in samples.records for key in record})
    numbers = [key for key in keys if isinstance(samples.drawn(key)[0], float | int)]
    varied = [key for key in numbers if len(set(samples.drawn(key))) > 2]
    count = len(samples.records)
    print(
        "\n| parameter | samples | mean | least | 5 % | median | 95 % | most |\n|---|---|---|---|---|---|---|---|"
    )
    for key in varied:
        values = samples.drawn(key)
        print(f"| `{key}` | {len(values) / count:.1%} | {summary(values)} |")
    print("\n| choice | shares |\n|---|---|")
    for key in (key for key in keys if key not in varied and len(set(samples.drawn(key))) > 1):
        values = samples.drawn(key)
        shares = (f"{value} {values.count(value) / len(values):.1%}" for value in sorted(set(values)))
        print(f"| `{key}` | {', '.join(shares)} |")


def show_operations() -> None:
    """Print what each operation costs at 512x512 on one core."""
    image = cv2.resize(np.random.default_rng(0).random((64, 64, 3), dtype=np.float32), (512, 512))
    rng = np.random.default_rng(0)

    def box(size: int) -> np.ndarray:
        return np.full((size, size), 1 / size**2)

    parts: dict[str, Callable[[], object]] = {
        "blur, 7x7 kernel": lambda: operations.filter2d(image, box(7)),
        "blur, 21x21": lambda: operations.filter2d(image, box(21)),
        "blur, 41x41": lambda: operations.filter2d(image, box(41)),
        "unsharp masking": lambda: operations.sharpen(image),
        **{
            f"{mode} to 300x300": lambda mode=mode: operations.resize(image, (300, 300), mode)
            for mode in operations.MODES
        },
        "Gaussian noise": lambda: operations.gaussian_noise(image, rng, 10.0),
        "Poisson noise": lambda: operations.poisson_noise(image, rng, 1.0),
        "Poisson noise, gray": lambda: operations.poisson_noise(image, rng, 1.0, gray=True),
        "sensor noise": lambda: sensor_noise(image, rng, 0.001, 1e-5, (2.0, 1.2, 1.7)),
        "JPEG": lambda: operations.jpeg(image, 60),
    }
    print("\n| operation | ms |\n|---|---|")
    for name, part in parts.items():
        print(f"| {name} | {1000 * seconds(part):.1f} |")


def seconds(part: Callable[[], object], repeats: int = 15) -> float:
    """Median processor time of a call."""
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        part()
        times.append(time.process_time() - begin)
    return float(np.median(times))


def plot(results: dict[str, Samples], path: Path) -> None:
    """Draw histograms of Real-ESRGAN's parameters, and of how strong the degradations are."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    samples = results["second_order"]
    figure, axes = plt.subplots(3, 4, figsize=(15, 9), constrained_layout=True)
    for axis, key in zip(axes.flat, SHOWN):
        values = samples.drawn(key)
        if isinstance(values[0], str):
            words = sorted(set(values), key=values.count)
            axis.barh(words, [values.count(word) for word in words])
        else:
            axis.hist(values, bins=22)  # 66 qualities in threes
        axis.set_title(f"{key}: {len(values)} of {len(samples.records)}")
    for kind, strength in results.items():
        axes.flat[-1].hist(strength.psnr, bins=40, histtype="step", label=kind)
    axes.flat[-1].set_title("PSNR of input against target (dB)")
    axes.flat[-1].legend()
    figure.savefig(path, dpi=70)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--photos", type=Path, default=Path("work/photos/train"), help="folder (default: %(default)s)"
    )
    parser.add_argument("--count", type=int, default=2000, help="samples of each kind (default: %(default)s)")
    parser.add_argument(
        "--picture",
        type=Path,
        default=Path("docs/degradations.png"),
        help="what to draw (default: %(default)s)",
    )
    args = parser.parse_args()
    cv2.setNumThreads(1)  # as in each of a loader's processes
    photos = load_photos(args.photos)
    results = {kind: measure(kind, photos, args.count) for kind in PUBLISHED}
    show_degradations(results)
    show_parameters(results["second_order"])
    show_operations()
    plot(results, args.picture)


if __name__ == "__main__":
    main()
