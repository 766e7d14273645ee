"""Write the images of the evaluation suite `photos`: a crop of each held-out photo, degraded x4.

    python scripts/build_photos.py work/photos
    python scripts/make_photo_suite.py work/photos/held_out    # rewrites diffbir_jax/evaluation/suites/photos

It prints the checksums that photos.toml holds: another encoder may compress the same pixels differently, and then the
files that are committed are the suite.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

# `python scripts/make_photo_suite.py` looks for modules in scripts/ alone.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from diffbir_jax.data.degradation import FirstOrder
from diffbir_jax.data.steps import Blur, Downscale, GaussianNoise, Jpeg
from diffbir_jax.evaluation.suites.spec import FOLDER
from diffbir_jax.files.digest import sha256
from diffbir_jax.imaging.bytes import to_depth

DATASET = "held_out"
SIDE = 256
# The crop's top and left in the photo, which is sky_<name>.jpg: windows with sharp detail and something to see.
CROPS = {
    "badlands0": (448, 384),
    "badlands8": (128, 0),
    "beach0": (192, 256),
    "beach2": (448, 896),
    "beach3": (192, 192),
    "beach4": (320, 512),
    "canyon7": (256, 1088),
    "city10": (448, 512),
    "city11": (0, 448),
    "city4": (448, 960),
    "city8": (256, 320),
    "fields1": (64, 1152),
    "fields5": (448, 256),
    "fields6": (384, 192),
    "fields7": (256, 1024),
    "fog4": (64, 832),
    "forest1": (128, 448),
    "forest3": (192, 1088),
    "forest4": (320, 640),
    "lava6": (64, 384),
    "mountain3": (448, 640),
    "mountain6": (192, 64),
    "mountain7": (384, 192),
    "mountain8": (448, 1024),
    "nasa0": (320, 1152),
    "nasa3": (256, 512),
    "nasa6": (320, 256),
    "sea3": (192, 192),
    "sea8": (448, 384),
    "sky8": (448, 1088),
    "snow1": (320, 960),
    "snow4": (320, 1088),
    "snow6": (384, 64),
    "space1": (256, 64),
    "space2": (192, 512),
    "space5": (192, 768),
    "station1": (0, 0),
    "station2": (64, 256),
    "station4": (64, 384),
    "water8": (448, 384),
}
DEGRADATION = FirstOrder(
    Blur(None, ("iso",), (1.0,), sigma=1.2),
    Downscale(4.0, ("area",)),
    GaussianNoise(8.0),
    Jpeg(60),
    enlarge=False,
)
SEED = 1


def truth(name: str, photos: Path) -> np.ndarray:
    """Return the undegraded (256, 256, 3) uint8 RGB crop `name` of a photo in the folder `photos`."""
    top, left = CROPS[name]
    with Image.open(photos / f"sky_{name}.jpg") as image:
        return np.asarray(image)[top : top + SIDE, left : left + SIDE]


def degraded(name: str, image: np.ndarray) -> np.ndarray:
    """Return the (64, 64, 3) uint8 RGB input made from the crop `image`, named `name`."""
    rng = np.random.default_rng([SEED, list(CROPS).index(name)])
    return to_depth(DEGRADATION(image, rng).lq, np.uint8)


def images(photos: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield all images of the suite and their paths below its folder."""
    for name in CROPS:
        yield f"{DATASET}/gt/{name}.png", truth(name, photos)
    for name in CROPS:
        yield f"{DATASET}/lq/{name}.png", degraded(name, truth(name, photos))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "photos", type=Path, help="folder of the held-out photos, which build_photos.py writes"
    )
    parser.add_argument("--output", type=Path, default=FOLDER / "photos", help="folder of the suite's images")
    args = parser.parse_args()
    print("[sha256]")
    for name, image in images(args.photos):
        path = args.output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, optimize=True)
        print(f'"{name}" = "{sha256(path)}"')


if __name__ == "__main__":
    main()
