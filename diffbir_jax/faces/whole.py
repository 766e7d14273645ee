"""Faces of whole photos: found, aligned, restored together, pasted into a background, and reported."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from diffbir_jax.console.errors import UserError
from diffbir_jax.faces.affine import compose, moved, reduction, resizing
from diffbir_jax.faces.align import SIDE, crop, similarity, to_result
from diffbir_jax.faces.detect import Detector, Face, detect
from diffbir_jax.faces.identity import SFace
from diffbir_jax.faces.masks import Shape
from diffbir_jax.faces.paste import Patch, paste
from diffbir_jax.imaging.bytes import enlarge, resize_bytes, to_depth
from diffbir_jax.imaging.checks import check_proportions
from diffbir_jax.imaging.writing import write_png
from diffbir_jax.restoration.image import Request
from diffbir_jax.restoration.pictures import Picture, Taken, take
from diffbir_jax.restoration.planner import make_plan
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.restoration.results import Wanted
from diffbir_jax.sampling.options import Options

# Noise of the faces of a photo: their indices lie this far apart, so that they meet no other photo's.
STRIDE = 1_000_003
NO_FACE = "no face"


@dataclass(frozen=True)
class Faces:
    """Which faces are restored, and how they are pasted.

    Attributes:
        least: faces whose box is smaller are left as the background has them; side in pixels of the photo.
        most: faces whose box is larger are left likewise.
        only_largest: restore only the largest face of a photo.
        strength: share of the restored faces in the result, 0 to 1.
        shape: of the masks, see `paste`.
        keep_low: whether the result has the low frequencies of the background.
        compat: crop and paste as the reference does, see `align.crop` and `paste`.
    """

    least: float = 0.0
    most: float = math.inf
    only_largest: bool = False
    strength: float = 1.0
    shape: Shape = "ellipse"
    keep_low: bool = True
    compat: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.least <= self.most:
            raise UserError(
                f"faces from {self.least} to {self.most} pixels; give a least size up to the most"
            )

    def reason(self, face: Face, largest: Face | None) -> str:
        """Why a face is not restored, in words; empty if it is."""
        if face.size < self.least:
            return f"smaller than {self.least:g} pixels"
        if face.size > self.most:
            return f"larger than {self.most:g} pixels"
        return "not the largest face" if self.only_largest and face is not largest else ""


class FaceReport(NamedTuple):
    """What became of a face.

    Attributes:
        face: its box, points and score, in pixels of the photo.
        left: why it was left as the background has it; empty if it was restored.
        scale: pixels of the result along one pixel of the restored crop. Above 1 the face is enlarged, and softer.
        identity: cosine between the face in the photo and in the result; None if nobody judged it.
        before: (S, S, 3) the crop of the photo; None if the face was left.
        after: (512, 512, 3) the restored crop; None likewise.
    """

    face: Face
    left: str = ""
    scale: float = 1.0
    identity: float | None = None
    before: np.ndarray | None = None
    after: np.ndarray | None = None


class Whole(NamedTuple):
    """A photo with its faces restored.

    Attributes:
        image: the result, of the kind of the picture that was given.
        faces: from left to right.
        note: "no face" if there is none, then `image` is the background; else empty.
    """

    image: Any
    faces: tuple[FaceReport, ...]
    note: str = ""


class _Job(NamedTuple):
    """A face on its way: the number of its photo, its place among the photo's faces, maps and crop."""

    photo: int
    place: int
    face: Face
    matrix: np.ndarray
    before: np.ndarray


def restore_faces(
    pictures: Sequence[Picture],
    restorer: Restorer,
    upscale: float = 1.0,
    options: Options | None = None,
    *,
    background: Literal["sr", "resize"] | Sequence[np.ndarray] = "sr",
    behind: Restorer | None = None,
    choice: Faces | None = None,
    detector: Detector | None = None,
    judge: SFace | None = None,
    zoom: int | None = None,
    memory: int | None = None,
) -> list[Whole]:
    """Restore the faces of photos, and paste them into the photos' backgrounds.

    All faces of all photos are crops of one size, so that they share batches and one compiled program.

    Args:
        pictures: the photos, as `restoration.pictures.take` reads them.
        restorer: restores the crops.
        upscale: side of the result divided by that of the photo.
        options: how to sample; by default the operating point of the restorer's preset.
        background: "sr": the photo restored; "resize": the photo resized by Pillow's bicubic filter; or a picture per
            photo, (h, w, 3) of the photo's dtype and proportions, which is resized if need be.
        behind: restores backgrounds for "sr"; by default `restorer`.
        choice: which faces, and how they are pasted; by default all of them.
        detector: finds the faces; by default the shipped one.
        judge: compares identities before and after; None: nobody.
        zoom: crops have 512 / zoom pixels and are restored to 512: 1, 2 or 4; by default as the preset needs it.
        memory: bytes that may be taken; by default most of what there is.

    Returns:
        a `Whole` per picture, in order. A photo without a face is its background and says so.

    Raises:
        UserError: a picture, a background or an option that cannot be used.
        ImageFileError: a file cannot be read.
    """
    choice = choice or Faces()
    options = options or restorer.options()
    taken = [take(picture) for picture in pictures]
    photos = [each.pixels for each in taken]
    _check(photos, background, upscale)
    zoom = fitting_zoom(restorer) if zoom is None else zoom
    found = [detect(photo, detector) for photo in photos]
    jobs = _jobs(photos, found, choice, zoom)
    after = _restored(
        restorer, [job.before for job in jobs], zoom, options, [_index(job) for job in jobs], memory
    )
    grounds = _grounds(photos, restorer if behind is None else behind, upscale, options, background, memory)
    return [
        _whole(
            taken[number],
            ground,
            found[number],
            {job.place: (job, pixels) for job, pixels in zip(jobs, after) if job.photo == number},
            choice,
            judge,
        )
        for number, ground in enumerate(grounds)
    ]


def fitting_zoom(restorer: Restorer) -> int:
    """The least zoom of crops, 1, 2 or 4, that a preset was trained for."""
    preset = restorer.preset
    needed = max(preset.meant_from, preset.scales[0] if preset.scales else 1.0)
    return next((zoom for zoom in (1, 2) if zoom >= needed), 4)


def _check(photos: list[np.ndarray], background: Any, upscale: float) -> None:
    if not (np.isfinite(upscale) and upscale > 0):
        raise UserError(f"`upscale` is {upscale!r}; give a finite number above 0")
    if isinstance(background, str):
        if background not in ("sr", "resize"):
            raise UserError(f"`background` is {background!r}; use 'sr', 'resize', or a picture per photo")
        return
    if len(background) != len(photos):
        raise UserError(f"{len(background)} backgrounds for {len(photos)} photos; give one per photo")
    for ground, photo in zip(background, photos):
        if ground.dtype != photo.dtype or ground.ndim != 3 or ground.shape[2] != 3:
            raise UserError(
                f"the background is {ground.dtype} of shape {ground.shape}; give (h, w, 3) {photo.dtype} like the photo"
            )
        check_proportions(ground, photo, "background")


def _jobs(photos: list[np.ndarray], found: list[list[Face]], choice: Faces, zoom: int) -> list[_Job]:
    """The faces that are restored, photo by photo, from left to right."""
    if zoom not in (1, 2, 4):
        raise UserError(f"`zoom` is {zoom!r}; use 1, 2 or 4")
    jobs = []
    for number, (photo, faces) in enumerate(zip(photos, found)):
        largest = _largest(faces)
        for place, face in enumerate(faces):
            if not choice.reason(face, largest):
                matrix = similarity(face.points)
                small = SIDE // zoom
                before = crop(
                    photo,
                    compose(resizing((SIDE, SIDE), (small, small)), matrix),
                    small,
                    compat=choice.compat,
                )
                jobs.append(_Job(number, place, face, matrix, before))
    return jobs


def _index(job: _Job) -> int:
    """What chooses the noise of a face: its photo and its place there, whatever is restored beside it."""
    return job.photo + (job.place + 1) * STRIDE


def _restored(
    restorer: Restorer,
    images: list[np.ndarray],
    upscale: float,
    options: Options,
    indices: Sequence[int],
    memory: int | None,
) -> list[np.ndarray]:
    """Restore images, in order, with a plan that fits the memory."""
    if not images:
        return []
    wanted = Wanted(options, keep=False, stage1_only=restorer.preset.stage1_only)
    sizes = [((h, w), (round(h * upscale), round(w * upscale))) for h, w, _ in (i.shape for i in images)]
    plan = make_plan(restorer, restorer.programs, sizes, wanted, memory).plan
    requests = [Request(image, index) for image, index in zip(images, indices)]
    results: dict[int, np.ndarray] = {}
    for outcome in restorer.restore_many(requests, upscale, options, plan=plan, keep=False):
        results[outcome.position] = outcome.all()[0].image
    return [results[position] for position in range(len(images))]


def _grounds(
    photos: list[np.ndarray],
    restorer: Restorer,
    upscale: float,
    options: Options,
    background: str | Sequence[np.ndarray],
    memory: int | None,
) -> list[np.ndarray]:
    """The background of each photo, in the size of the result."""
    if isinstance(background, str):
        if background == "sr":
            return _restored(restorer, photos, upscale, options, range(len(photos)), memory)
        return [enlarge(photo, upscale) for photo in photos]
    sizes = [(round(photo.shape[0] * upscale), round(photo.shape[1] * upscale)) for photo in photos]
    return [resize_bytes(ground, size) for ground, size in zip(background, sizes)]


def _whole(
    taken: Taken,
    ground: np.ndarray,
    faces: list[Face],
    restored: dict[int, tuple[_Job, np.ndarray]],
    choice: Faces,
    judge: SFace | None,
) -> Whole:
    """Paste the restored faces of a photo, by their places, into its background, and report on all its faces."""
    patches = [Patch(pixels, job.face.points, job.matrix) for job, pixels in restored.values()]
    image = paste(
        ground,
        patches,
        (taken.pixels.shape[0], taken.pixels.shape[1]),
        shape=choice.shape,
        keep_low=choice.keep_low,
        strength=choice.strength,
        compat=choice.compat,
    )
    largest = _largest(faces)
    reports = [
        _report(taken.pixels, image, *restored[place], judge)
        if place in restored
        else FaceReport(face, choice.reason(face, largest))
        for place, face in enumerate(faces)
    ]
    return Whole(taken.like(image), tuple(reports), "" if faces else NO_FACE)


def _largest(faces: list[Face]) -> Face | None:
    return max(faces, key=lambda face: face.size, default=None)


def _report(
    photo: np.ndarray, image: np.ndarray, job: _Job, after: np.ndarray, judge: SFace | None
) -> FaceReport:
    before, size = (photo.shape[0], photo.shape[1]), (image.shape[0], image.shape[1])
    scale = 1 / reduction(to_result(job.matrix, before, size))
    identity = None
    if judge is not None:
        points = moved(resizing(before, size), job.face.points)
        identity = judge.likeness(photo, job.face.points, image, points)
    return FaceReport(job.face, "", scale, identity, job.before, after)


def save_crops(whole: Whole, folder: str | Path, stem: str) -> list[Path]:
    """Write the crops of a photo's restored faces as PNG; all faces are counted from left to right.

    Args:
        whole: the photo.
        folder: an existing folder.
        stem: beginning of the files' names; one that no other photo has.

    Returns:
        the files: STEM_face_01_before.png and STEM_face_01_after.png, and so on.

    Raises:
        OSError: a file cannot be written.
    """
    files = []
    for number, report in enumerate(whole.faces, 1):
        for name, pixels in (("before", report.before), ("after", report.after)):
            if pixels is not None:
                files.append(Path(folder) / f"{stem}_face_{number:02d}_{name}.png")
                deep = np.uint16 if pixels.dtype == np.float32 else pixels.dtype
                write_png(files[-1], pixels if pixels.dtype == deep else to_depth(pixels, deep))
    return files
