"""Choose the training photos: write `photos.tsv`, which `build_photos.py` follows.

    python scripts/select_photos.py

It needs what build_photos.py needs. It takes the 32 photos that `tiny` was trained on as they are. It takes another
photo if its author is known and if it is sharp at one of four scales; it uses the largest of these. A photo is sharp if
its window of 256x256 pixels with most fine detail has enough of it: in grey levels, and compared with detail of twice
the size, since an image that was enlarged has little fine detail. Near-duplicates of held-out photos are left out.
"""

import argparse
import io
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

# `python scripts/select_photos.py` looks for modules in scripts/ alone.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.packages import BuildError, Package, authorship, fetch, require_tools
from scripts.photo_list import HELD_OUT, LIST, TRAIN, Photo, digest, encoded, scaled, write_list
from scripts.rcc import RccError

TINY = {
    "lomiri-wallpapers-16.04": [
        "usr/share/backgrounds/Bridge_by_Sander_Klootwijk.jpg",
        "usr/share/backgrounds/free_by_Peter_Nerlich.jpg",
        "usr/share/backgrounds/greentock_by_Peter_Nerlich.jpg",
        "usr/share/backgrounds/picosdeeuropa_by_Aitzol_Berasategi.jpg",
        "usr/share/backgrounds/Picture_1A_by_freespace.jpg",
        "usr/share/backgrounds/seeding_by_Clements_Engelhardt.jpg",
        "usr/share/backgrounds/sunset_by_Aitzol_Berasategi.jpg",
    ],
    "lomiri-wallpapers-20.04": [
        "usr/share/backgrounds/Infinite-Sea_by_Aury88.jpg",
        "usr/share/backgrounds/Kleiber_by_Lukas_Baubkus.jpg",
    ],
    "mate-backgrounds": [
        f"usr/share/backgrounds/mate/nature/{name}.jpg"
        for name in (
            *("Aqua", "Blinds", "Dune", "FreshFlower", "Garden", "GreenMeadow"),
            *("RainDrops", "Storm", "TwoWings", "Wood", "YellowFlower"),
        )
    ],
    "plasma-workspace-wallpapers": [
        f"usr/share/wallpapers/{name}/contents/images/{file}"
        for file, names in {
            "1920x1080.jpg": (
                *("BytheWater", "ColdRipple", "DarkestHour", "FallenLeaf", "Grey"),
                *("Kite", "OneStandsOut", "Path", "summer_1am"),
            ),
            "2560x1600.jpg": ("ColorfulCups",),
            "5120x2880.jpg": ("SafeLanding",),
            "5120x2880.png": ("Patak",),
        }.items()
        for name in names
    ],
}
SKY, LANDS = "endless-sky-high-dpi", "usr/share/games/endless-sky/plugins/endless-sky-high-dpi/images/land"
# Pictures of planets, made from measurements.
NOT_PHOTOS = {"nasa8", "nasa9"}
# Photographs from unsplash.com and NASA, which the copyright file of the package calls public domain.
HELD_OUT_LANDS = {
    f"{kind}{number}"
    for kind, numbers in {
        **{
            "badlands": (0, 8),
            "beach": (0, 2, 3, 4),
            "canyon": (7,),
            "city": (4, 8, 10, 11),
            "fields": (1, 5, 6, 7),
        },
        **{
            "fog": (4,),
            "forest": (1, 3, 4),
            "lava": (6,),
            "mountain": (3, 6, 7, 8),
            "nasa": (0, 3, 6),
            "sea": (3, 8),
        },
        **{"sky": (8,), "snow": (1, 4, 6), "space": (1, 2, 5), "station": (1, 2, 4), "water": (8,)},
    }.items()
    for number in numbers
}
GAMES, ARCHIVES = "gcompris-qt-data", "usr/share/gcompris-qt/rcc"
# The activities of GCompris whose large pictures are photographs, and how the names of paintings among them begin.
ACTIVITIES = (
    *("clickgame", "details", "erase", "explore_farm_animals", "explore_monuments", "explore_world_animals"),
    "explore_world_music",
)
PAINTINGS = ("Eglise", "Gogh", "PortraitOf", "Van_Gogh", "VincentVanGogh")
# Pixels that the longer side of a photo must have as it is installed.
LARGE = 600
SCALES = (1.0, 0.75, 0.5, 0.375)
WINDOW, STRIDE = 256, 64
# The least standard deviation of the finest octave, in grey levels, and its least ratio to the variance of the next.
DETAIL, RATIO = 4.0, 0.9
# Bits of 256 in which hashes of near-duplicates differ at most.
NEAR = 40


def octaves(image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Return the variance of the finest octave of grey levels and of the next one, in windows of 256x256 pixels."""
    grey = np.asarray(image.convert("L"), np.float32)
    fine = cv2.GaussianBlur(grey, (0, 0), 0.7)
    coarse = cv2.GaussianBlur(grey, (0, 0), 1.4)
    return _window_means((grey - fine) ** 2), _window_means((fine - coarse) ** 2)


def _window_means(values: np.ndarray) -> np.ndarray:
    if min(values.shape) < WINDOW:
        return np.zeros((0, 0))
    sums = cv2.integral(values, sdepth=cv2.CV_64F)
    rows = np.r_[0 : values.shape[0] - WINDOW + 1 : STRIDE][:, None]
    columns = np.r_[0 : values.shape[1] - WINDOW + 1 : STRIDE][None]
    low, right = rows + WINDOW, columns + WINDOW
    return (sums[low, right] - sums[low, columns] - sums[rows, right] + sums[rows, columns]) / WINDOW**2


def is_sharp(image: Image.Image) -> bool:
    """Whether the window of `image` with most detail is sharp at the level of pixels."""
    fine, coarse = octaves(image)
    if not fine.size:
        return False
    best = fine.argmax()
    return bool(fine.flat[best] >= max(DETAIL**2, RATIO * coarse.flat[best]))


def sharp_scale(image: Image.Image) -> float | None:
    """Return the largest of the scales at which `image` is sharp, or None."""
    return next((scale for scale in SCALES if is_sharp(scaled(image, scale))), None)


def difference_hash(image: Image.Image) -> np.ndarray:
    """Return 256 bits: whether the pixels of a 17x16 thumbnail are brighter than their left neighbours."""
    grey = np.asarray(image.convert("L").resize((17, 16), Image.Resampling.BOX), np.int16)
    return (np.diff(grey) > 0).ravel()


def near_duplicates(hashes: Sequence[np.ndarray]) -> Iterator[tuple[int, int]]:
    """Yield the pairs of photos that look the same: their places in `hashes`, the lower one first."""
    bits = np.stack(hashes)
    for first, own in enumerate(bits):
        for other in np.flatnonzero((bits[first + 1 :] != own).sum(1) <= NEAR):
            yield first, first + 1 + int(other)


def without_leaks(photos: Sequence[Photo], hashes: Sequence[np.ndarray]) -> list[Photo]:
    """Return `photos` without those for training that look the same as a held-out one."""
    leaks = set()
    for pair in near_duplicates(hashes):
        names = [str(photos[i].place) for i in pair]
        print(f"look the same: {' and '.join(names)}")
        if {photos[i].split for i in pair} == {TRAIN, HELD_OUT}:
            leaks |= {i for i in pair if photos[i].split == TRAIN}
    return [photo for i, photo in enumerate(photos) if i not in leaks]


def candidates(package: Package) -> Iterator[tuple[str, str, str]]:
    """Yield split, file name and path of the pictures of a package that may be taken."""
    if package.name in TINY:
        yield from ((TRAIN, _tiny_name(path), path) for path in TINY[package.name])
    elif package.name == SKY:
        for path in sorted((package.root / LANDS).glob("*.jpg")):
            name = path.stem.removesuffix("@2x")
            if name not in NOT_PHOTOS:
                split = HELD_OUT if name in HELD_OUT_LANDS else TRAIN
                yield split, f"sky_{name}.jpg", f"{LANDS}/{path.name}"
    else:
        yield from _activities(package)


def _activities(package: Package) -> Iterator[tuple[str, str, str]]:
    for activity in ACTIVITIES:
        archive = f"{ARCHIVES}/{activity}.rcc"
        for inner in sorted(package.archive(archive).places):
            name = PurePosixPath(inner).stem
            if inner.endswith(".webp") and not name.startswith(PAINTINGS):
                yield TRAIN, f"{activity}_{name.lower()}.jpg", f"{archive}:{inner}"


def _tiny_name(path: str) -> str:
    parts = PurePosixPath(path).parts
    # Plasma names the folder after the picture and the file after its size.
    stem = parts[3] if parts[2] == "wallpapers" else PurePosixPath(path).stem
    return f"{stem.lower()}.jpg"


def chosen(package: Package) -> Iterator[tuple[Photo, np.ndarray]]:
    """Yield the photos that are taken from a package, and their hashes."""
    for split, file, path in tqdm(list(candidates(package)), package.name, unit="picture", disable=None):
        content = package.read(path) or b""
        with Image.open(io.BytesIO(content)) as image:
            if not (package.name in TINY or is_large(image)):
                continue
            scale = 1.0 if package.name in TINY else sharp_scale(image)
            holders, licence = authorship(package.notice(path), path.rpartition(":")[2])
            if scale is None or holders == "unknown":
                print(f"left out, {'not sharp' if scale is None else 'no author'}: {file}")
                continue
            sha256 = digest(encoded(content, scale))
            photo = Photo(split, file, package.name, path, holders, licence, scale, sha256)
            yield photo, difference_hash(image)


def is_large(image: Image.Image) -> bool:
    """Whether `image` is large enough, and opaque: what is cut out is no photo."""
    return max(image.size) >= LARGE and "A" not in image.getbands()


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=LIST, help="list to write")
    output = parser.parse_args().output
    try:
        require_tools()
        with tempfile.TemporaryDirectory() as folder:
            found = [pair for name in (*TINY, SKY, GAMES) for pair in chosen(fetch(name, Path(folder)))]
    except (BuildError, RccError, OSError) as error:
        print(f"select_photos: {error}", file=sys.stderr)
        return 1
    photos, hashes = zip(*found, strict=True)
    write_list(without_leaks(photos, hashes), output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
