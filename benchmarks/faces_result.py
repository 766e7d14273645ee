"""What faces become in whole photos, face by face, and whether masks leave seams: python -m benchmarks.faces_result.

With --portraits (see benchmarks/faces.py) the group picture has four persons, else five times the astronaut of
scikit-image (NASA, public domain). It is reduced with blur, noise and JPEG artefacts, and restored by --version.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks.faces import ASTRONAUT, PLACES, REDUCED, boxes, degraded, group
from diffbir_jax.evaluation.learned import LPIPS_ALEX, load_lpips
from diffbir_jax.evaluation.metric import Setup
from diffbir_jax.faces import paste as pasting
from diffbir_jax.faces.align import crop, similarity
from diffbir_jax.faces.find import Face, detect
from diffbir_jax.faces.identity import SFace
from diffbir_jax.faces.paste import Patch, paste
from diffbir_jax.faces.reports import FaceReport
from diffbir_jax.faces.whole import restore_faces
from diffbir_jax.imaging.bytes import enlarge
from diffbir_jax.models.backbones import AlexNet
from diffbir_jax.restoration.restorer import Restorer

Scores = dict[str, Callable[[np.ndarray, np.ndarray, Face], float]]
# The soft edge of a mask.
EDGE = (0.02, 0.98)


class Made(NamedTuple):
    """A restored group: the input, its bicubic enlargement, the restored background, the result, the faces."""

    given: np.ndarray
    large: np.ndarray
    ground: np.ndarray
    image: np.ndarray
    faces: Sequence[FaceReport]


def restored(version: str, given: np.ndarray, scale: int) -> Made:
    """Restore a picture once without and once with its faces apart; the background is the same."""
    restorer = Restorer.load(version)
    ground = restorer.restore(given, scale).image
    (found,) = restore_faces([given], restorer, scale, background=ground)
    return Made(given, enlarge(given, scale), ground, np.asarray(found.image), found.faces)


def scores(judge: Path | None, weights: Path | None) -> Scores:
    """Identity and LPIPS of a face, where their networks are."""
    found: Scores = {}
    if judge is not None:
        sface = SFace(judge)
        found["identity"] = lambda image, truth, face: sface.likeness(truth, face.points, image, face.points)
    if weights is not None:
        lpips = load_lpips(Setup(weights=weights), net=AlexNet(), file=LPIPS_ALEX)
        found["LPIPS"] = lambda image, truth, face: lpips(cut(image, face), cut(truth, face))
    return found


def cut(image: np.ndarray, face: Face) -> np.ndarray:
    """The aligned crop of a face."""
    return crop(image, similarity(face.points))


def table(made: Made, truth: np.ndarray, measures: Scores) -> None:
    """Print the scores of each face of the ground truth, largest first."""
    faces = sorted(detect(truth), key=lambda face: -face.size)
    for name, score in measures.items():
        for what in ("large", "ground", "image"):
            each = [score(getattr(made, what), truth, face) for face in faces]
            print(f"  {name:9} {what:7} {np.mean(each):7.3f}   {' '.join(f'{one:.2f}' for one in each)}")


def gradients(picture: np.ndarray) -> np.ndarray:
    """Along rows and columns, of the mean of the colours."""
    return np.stack(np.gradient(picture.astype(np.float64).mean(-1)))


def seams(made: Made) -> list[float]:
    """Gradient energy along the soft edge of each face, divided by that of the blend without the mask's own."""
    sides = made.given.shape[0], made.given.shape[1]
    faces = [each for each in made.faces if each.after is not None]
    patches = [
        Patch(np.asarray(each.after), each.face.points, similarity(each.face.points)) for each in faces
    ]
    black = np.zeros((*made.ground.shape[:2], 3), np.float32)
    white = [each._replace(pixels=np.ones((512, 512, 3), np.float32)) for each in patches]
    share = paste(black, white, sides, keep_low=False)[..., 0].astype(np.float64)
    return [_seam(made, patch, share, sides) for patch in patches]


def _seam(made: Made, patch: Patch, share: np.ndarray, sides: tuple[int, int]) -> float:
    placed = pasting._place(patch, sides, (made.ground.shape[0], made.ground.shape[1]))
    top, left, bottom, right = placed.box
    here = np.s_[top:bottom, left:right]
    face = pasting._shown(placed, placed.box, pasting._layers(made.ground, placed, True)).clip(0, 255)
    weight = share[here]
    edge = (weight > EDGE[0]) & (weight < EDGE[1]) & (pasting._on_crop(placed, placed.box) > 0)
    without = weight * gradients(face) + (1 - weight) * gradients(made.ground[here])
    seen = gradients(made.image)[:, top:bottom, left:right]
    return float((seen[:, edge] ** 2).sum() / (without[:, edge] ** 2).sum())


def figure(made: Made) -> Image.Image:
    """The input with the faces that were found, crops before and after, and the result."""
    faces = [each for each in made.faces if each.before is not None]
    height, width = made.image.shape[:2]
    before = Image.fromarray(made.given).resize((width, height), Image.Resampling.NEAREST)
    moved = [
        each.face._replace(points=(each.face.points + 0.5) * (width / made.given.shape[1]) - 0.5)
        for each in faces
    ]
    side = width // len(faces)
    shown = Image.new("RGB", (width, 2 * height + 2 * side), "white")
    shown.paste(boxes(before, moved), (0, 0))
    for number, each in enumerate(faces):
        for row, pixels in enumerate((each.before, each.after)):
            small = Image.fromarray(np.asarray(pixels)).resize((side, side), Image.Resampling.BICUBIC)
            shown.paste(small, (number * side, height + row * side))
    shown.paste(Image.fromarray(made.image), (0, height + 2 * side))
    return shown


def main() -> None:
    """Restore, measure and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--portraits", type=Path, help="the folder of portraits")
    parser.add_argument("--version", default="one-step")
    parser.add_argument("--by", type=int, default=REDUCED, help="reduction of the group picture (default: 4)")
    parser.add_argument("--sface", type=Path, help="SFace's ONNX file, for identities")
    parser.add_argument("--metrics", type=Path, help="folder with the weights of LPIPS")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="write the picture of docs/faces.md")
    args = parser.parse_args()
    places = PLACES if args.portraits else [place._replace(name=ASTRONAUT) for place in PLACES]
    clean, _ = group(args.portraits, places)
    made = restored(args.version, np.asarray(degraded(clean, args.by)), args.by)
    print(f"{args.version} x{args.by}, {len(made.faces)} faces, {clean.width}x{clean.height}")
    table(made, np.asarray(clean), scores(args.sface, args.metrics))
    along = seams(made)
    print(f"  seams     {np.mean(along):.3f}   {' '.join(f'{each:.3f}' for each in along)}")
    if args.figure:
        half = figure(made)
        half.resize((half.width * 3 // 4, half.height * 3 // 4), Image.Resampling.LANCZOS).save(
            args.figure, quality=88
        )


if __name__ == "__main__":
    main()
