"""How fast training data is made, against the same degradations written with BasicSR's functions.

    pip download --no-deps basicsr==1.4.2
    .venv-peers/bin/python -m benchmarks.data --photos DIR --basicsr basicsr-1.4.2.tar.gz

Both degrade the same 512x512 crops in turn, on one thread each. Then the whole loader is timed, with and without worker
processes: from photos, and from files of 512x512 pixels.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from benchmarks.basicsr_peer import BasicSR, Clock
from diffbir_jax.data import degradation, operations, steps
from diffbir_jax.data.degradation import make_degradation
from diffbir_jax.data.photos import CropConfig, load_photos, random_crop
from diffbir_jax.data.setup import Data, make_loaders

SIDE = 512
CROP = CropConfig(SIDE, (0.5, 1.0))
WARM = 8  # batches of 8 before the loader is timed
# Where each stage of ours is: module and the function that does it.
OURS = {
    "kernels": [(steps, "draw_kernel"), (steps, "sinc_kernel")],
    "sharpen": [(degradation, "sharpen")],
    "blur": [(operations, "filter2d")],
    "resize": [(operations, "resize")],
    "noise": [(operations, "gaussian_noise"), (operations, "poisson_noise")],
    "jpeg": [(operations, "jpeg")],
}
# A camera's noise has no counterpart in BasicSR.
CONFIGS: dict[str, dict[str, Any]] = {
    "first_order": {"kind": "first_order"},
    "second_order": {"kind": "second_order"},
    "denoise": {"kind": "denoise", "sensor_probability": 0.0},
}


@contextmanager
def clocked(clock: Clock) -> Iterator[None]:
    """Count the stages of our pipelines on `clock`."""
    before = [(module, name, getattr(module, name)) for places in OURS.values() for module, name in places]
    for stage, places in OURS.items():
        for module, name in places:
            setattr(module, name, _timed(getattr(module, name), clock, stage))
    try:
        yield
    finally:
        for module, name, function in before:
            setattr(module, name, function)


def _timed(function: Callable[..., Any], clock: Clock, stage: str) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        with clock(stage):
            return function(*args, **kwargs)

    return timed


def compare(kind: str, peer: BasicSR, crops: list[np.ndarray]) -> dict[str, Any]:
    """Degrade every crop by both in turn.

    Returns:
        `seconds` (N, 2) of ours and the peer's, and the `stages` of both.
    """
    ours, clocks = make_degradation(CONFIGS[kind]), (Clock(), Clock())
    seconds = []
    for i, crop in enumerate(tqdm(crops, kind, unit="image", leave=False)):
        rng = np.random.default_rng((0, i))
        random.seed(i)
        np.random.seed(i)
        peer.torch.manual_seed(i)
        begin = time.perf_counter()
        with clocked(clocks[0]):
            ours(crop, rng)
        between = time.perf_counter()
        getattr(peer, kind)(crop / np.float32(255), clocks[1])
        seconds.append((between - begin, time.perf_counter() - between))
    return {"seconds": np.array(seconds), "stages": [clock.seconds for clock in clocks]}


def show(results: Mapping[str, dict[str, Any]]) -> None:
    """Print images per second, ratios and milliseconds by stage as Markdown."""
    print("| pipeline | ours, images/s | BasicSR, images/s | ratio of medians |\n|---|---|---|---|")
    for kind, result in results.items():
        mean, median = result["seconds"].mean(0), np.median(result["seconds"], 0)
        print(f"| {kind} | {1 / mean[0]:.1f} | {1 / mean[1]:.1f} | {median[1] / median[0]:.2f} |")
    print(f"\n| ms per image, ours / BasicSR | {' | '.join(OURS)} |\n|---|{'---|' * len(OURS)}")
    for kind, result in results.items():
        ours, peer = ({k: 1e3 * v / len(result["seconds"]) for k, v in s.items()} for s in result["stages"])
        cells = (f"{ours.get(stage, 0):.1f} / {peer.get(stage, 0):.1f}" for stage in OURS)
        print(f"| {kind} | {' | '.join(cells)} |")


def time_loader(source: Mapping[str, Any], crop: str, kind: str, workers: int, number: int) -> float:
    """Images per second of the whole loader, once its workers are warm."""
    data = Data(
        source=source,
        crop={"kind": crop, "size": SIDE},
        degradation=CONFIGS[kind],
        batch_size=8,
        validation_size=1,
        workers=workers,
        held_out_every=2,
    )
    loader, _ = make_loaders(data, 0)
    with closing(loader.iterate(0, WARM + number // 8)) as stream:
        for _ in range(WARM):
            next(stream)
        begin, count = time.perf_counter(), 0
        for batch in stream:
            count += len(batch["hq"])
    return count / (time.perf_counter() - begin)


def time_loaders(folder: Path, crops: list[np.ndarray], number: int) -> None:
    """Print what the loader makes of the photos, and of crops stored as JPEG files."""
    print("\n| loader, images/s | 0 workers | 2 workers |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as stored:
        for i, crop in enumerate(crops):
            Image.fromarray(crop).save(Path(stored) / f"{i:04}.jpg", quality=95)
        sources = {"photos, random crop": (folder, "random"), "files of 512x512": (Path(stored), "none")}
        for name, (path, crop) in sources.items():
            for kind in CONFIGS:
                source = {"kind": "folder", "path": str(path)}
                rates = [time_loader(source, crop, kind, workers, number) for workers in (0, 2)]
                print(f"| {name}, {kind} | {rates[0]:.1f} | {rates[1]:.1f} |", flush=True)


def main() -> None:
    """Run both and print tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, default=Path("work/photos/train"), help="folder of photos")
    parser.add_argument("--basicsr", type=Path, required=True, help="source archive of BasicSR")
    parser.add_argument("--number", type=int, default=60, help="crops (default: %(default)s)")
    args = parser.parse_args()
    peer = BasicSR(args.basicsr)
    cv2.setNumThreads(1)
    peer.torch.set_num_threads(1)
    photos = load_photos(args.photos)
    rng = np.random.default_rng(0)
    crops = [random_crop(photos[i % len(photos)], rng, CROP) for i in range(args.number)]
    show({kind: compare(kind, peer, crops) for kind in CONFIGS})
    time_loaders(args.photos, crops, 4 * args.number)


if __name__ == "__main__":
    main()
