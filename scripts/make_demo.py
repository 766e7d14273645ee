"""Write the demo inputs: centre crops of four scikit-image pictures, degraded as in training, from a fixed seed.

python scripts/make_demo.py                      # rewrites assets/demo
python scripts/make_demo.py --references out/hq  # also the crops before degradation, to compare with
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

from diffbir_jax.data.degradation import FirstOrder
from diffbir_jax.data.operations import MODES
from diffbir_jax.data.steps import Blur, Downscale, Jpeg
from diffbir_jax.imaging.bytes import to_depth

PICTURES = ("astronaut", "chelsea", "coffee", "rocket")
SIDE = 256
# As configs/common.py has it; the noise has its default range.
DEGRADATION = FirstOrder(
    Blur(None, sigma=(0.2, 2.0)), Downscale((4.0, 4.0), MODES), jpeg=Jpeg((40, 95)), enlarge=False
)


def centre_crop(image: np.ndarray, side: int) -> np.ndarray:
    """Return the (side, side, 3) middle of an (H, W, 3) image."""
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return image[top : top + side, left : left + side]


def reference(name: str) -> np.ndarray:
    """Return the undegraded (256, 256, 3) uint8 RGB crop of the scikit-image picture `name`."""
    return centre_crop(getattr(data, name)(), SIDE)


def degraded(name: str, seed: int) -> np.ndarray:
    """Return the (64, 64, 3) uint8 RGB input made from `reference(name)`: it depends on `seed` and the name only."""
    rng = np.random.default_rng([seed, PICTURES.index(name)])
    return to_depth(DEGRADATION(reference(name), rng).lq, np.uint8)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("assets/demo"), help="folder of the inputs")
    parser.add_argument(
        "--references", type=Path, help="folder for the undegraded crops; not written by default"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of the degradations (default 1)")
    args = parser.parse_args()
    for name in PICTURES:
        _write(args.output / f"{name}.png", degraded(name, args.seed))
        if args.references:
            _write(args.references / f"{name}.png", reference(name))


def _write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, optimize=True)
    print(f"{path}: {image.shape[1]}x{image.shape[0]}")


if __name__ == "__main__":
    main()
