"""Known degradations against blind restoration on `tiny`: python -m benchmarks.operators --lpips DIR.

Crops of the suite `photos` are reduced, made gray or get holes, without noise, and rounded to bytes. They are restored
without and with --operator.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from diffbir_jax.console.process import configure
from diffbir_jax.evaluation.learned import LPIPS_ALEX, load_lpips
from diffbir_jax.evaluation.metric import Setup
from diffbir_jax.evaluation.suites.flags import SUITES
from diffbir_jax.imaging.bytes import enlarge, to_depth
from diffbir_jax.imaging.canvas import from_depth
from diffbir_jax.imaging.filling import fill
from diffbir_jax.metrics.fidelity import psnr
from diffbir_jax.models.backbones import AlexNet
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.sampling.operators import Separable, parse

OPERATORS = ["down4", "blur:1.5", "gray", "mask"]
METHODS = {
    "blind": {},
    "project": {"operator_method": "project"},
    "gradient": {"operator_method": "gradient"},
}


def crops(count: int, side: int) -> list[np.ndarray]:
    """The middles of some photos, spread over the suite, (side, side, 3) uint8 each."""
    paths = sorted((SUITES / "photos" / "held_out" / "gt").glob("*.png"))
    found = []
    for path in paths[:: len(paths) // count][:count]:
        photo = np.asarray(Image.open(path).convert("RGB"))
        top, left = ((length - side) // 2 for length in photo.shape[:2])
        found.append(photo[top : top + side, left : left + side])
    return found


def holes(side: int) -> np.ndarray:
    """A mask with a square hole and three scratches, (side, side) bool, False in them."""
    known = np.ones((side, side), bool)
    known[side // 2 : side // 2 + side // 5, side // 4 : side // 4 + side // 5] = False
    for row in (side // 8, side // 3, 5 * side // 6):
        known[row : row + 3, side // 10 : -side // 10] = False
    return known


def degraded(linear: Separable, photo: np.ndarray) -> np.ndarray:
    """The photo after an operator, uint8 with three channels."""
    measured = linear(photo / 255.0)
    return to_depth(np.broadcast_to(measured, (*measured.shape[:2], 3)), np.uint8)


def simple(linear: Separable, given: np.ndarray) -> np.ndarray:
    """What needs no network: bicubic enlargement, and smooth colours in holes."""
    if linear.mask is not None:
        return to_depth(fill(from_depth(given), linear.mask), np.uint8)
    return enlarge(given, linear.spec.scale)


def distance(linear: Separable, result: np.ndarray, given: np.ndarray) -> float:
    """The largest difference of A(result) and y in levels of 255."""
    y = given[..., :1] if linear.spec.gray else given
    return float(np.abs(linear(result / 255.0) * 255.0 - y).max())


def restored(
    words: str, name: str, given: Sequence[np.ndarray], restorer: Restorer, linear: Separable
) -> list[np.ndarray]:
    """The results of a method."""
    if name == "simple":
        return [simple(linear, each) for each in given]
    options = restorer.options(**({} if name == "blind" else {"operator": words} | METHODS[name]))
    return [each.image for each in restorer.restore(list(given), linear.spec.scale, options)]


def operator(words: str, side: int) -> Separable:
    """The operator on crops, with its mask."""
    spec = parse(words)
    mask = None if spec.mask is None else np.asarray(Image.open(spec.mask)) > 0
    return Separable(spec, (side, side), mask)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table; write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lpips", type=Path, required=True, help="folder of lpips_alex.safetensors")
    parser.add_argument("--only", choices=OPERATORS, nargs="+", default=OPERATORS)
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--pictures", type=Path, help="write inputs and results side by side into this file")
    args = parser.parse_args(argv)
    configure("fp32")
    lpips = load_lpips(Setup(weights=args.lpips), net=AlexNet(), file=LPIPS_ALEX)
    restorer, photos, strips = Restorer.load("tiny"), crops(args.count, args.side), []
    with tempfile.TemporaryDirectory() as folder:
        Image.fromarray(holes(args.side)).convert("L").save(f"{folder}/mask.png")
        for label in args.only:
            words = f"mask:{folder}/mask.png" if label == "mask" else label
            linear = operator(words, args.side)
            found = {"y": [degraded(linear, photo) for photo in photos]}
            for name in ("simple", *METHODS):
                found[name] = restored(words, name, found["y"], restorer, linear)
                pairs = list(zip(found[name], photos, found["y"], strict=True))
                figures = (
                    np.mean([psnr(each, photo) for each, photo, _ in pairs]),
                    np.mean([lpips(each, photo) for each, photo, _ in pairs]),
                    max(distance(linear, each, y) for each, _, y in pairs),
                )
                print("| {} | {} | {:.2f} | {:.3f} | {:.2f} |".format(label, name, *figures), flush=True)
            strips += [row(i, found, photos[i]) for i in range(0, len(photos), 2)]
    if args.pictures is not None:
        Image.fromarray(np.concatenate(strips)).save(args.pictures, quality=88)


def row(i: int, found: dict[str, list[np.ndarray]], photo: np.ndarray) -> np.ndarray:
    """Input, results and the photo side by side."""
    size = photo.shape[1], photo.shape[0]
    given = np.asarray(Image.fromarray(found["y"][i]).resize(size, Image.Resampling.NEAREST))
    return np.concatenate([given, *(found[name][i] for name in ("simple", *METHODS)), photo], axis=1)


if __name__ == "__main__":
    main()
