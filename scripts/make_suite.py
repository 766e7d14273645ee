"""Write the images of the evaluation suite `tiny`: crops of scikit-image's pictures, degraded as the demo inputs are.

python scripts/make_suite.py                    # rewrites diffbir_jax/evaluation/suites/tiny

It prints the checksums that tiny.toml holds: another encoder may compress the same pixels differently, and then the
files that are committed are the suite.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

from diffbir_jax.evaluation.suites.spec import FOLDER
from diffbir_jax.files.digest import sha256
from diffbir_jax.imaging.bytes import to_depth
from scripts.make_demo import DEGRADATION, SIDE

DATASET = "pictures"
# The picture and the crop's top and left.
CROPS = {
    "astronaut_face": ("astronaut", 0, 96),
    "astronaut_helmet": ("astronaut", 256, 256),
    "astronaut_suit": ("astronaut", 256, 0),
    "chelsea": ("chelsea", 22, 97),
    "coffee_cup": ("coffee", 72, 44),
    "coffee_spoon": ("coffee", 72, 300),
    "rocket_pad": ("rocket", 171, 256),
    "rocket_tower": ("rocket", 171, 0),
}
SEED = 1


def truth(name: str) -> np.ndarray:
    """Return the undegraded (256, 256, 3) uint8 RGB crop `name`."""
    picture, top, left = CROPS[name]
    return getattr(data, picture)()[top : top + SIDE, left : left + SIDE]


def degraded(name: str) -> np.ndarray:
    """Return the (64, 64, 3) uint8 RGB input made from `truth(name)`."""
    rng = np.random.default_rng([SEED, list(CROPS).index(name)])
    return to_depth(DEGRADATION(truth(name), rng).lq, np.uint8)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=FOLDER / "tiny", help="folder of the suite's images")
    folder = parser.parse_args().output
    print("[sha256]")
    for kind, make in (("gt", truth), ("lq", degraded)):
        for name in CROPS:
            path = folder / DATASET / kind / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(make(name)).save(path, optimize=True)
            print(f'"{path.relative_to(folder).as_posix()}" = "{sha256(path)}"')


if __name__ == "__main__":
    main()
