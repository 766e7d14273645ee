"""Faces of whole photos in one call: found, aligned, restored together, pasted into a background, and reported."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffbir_jax.faces.choice import Faces
from diffbir_jax.faces.find import Detector
from diffbir_jax.faces.grounds import grounds_of
from diffbir_jax.faces.identity import SFace
from diffbir_jax.faces.memory import crops_plan, photos_plan
from diffbir_jax.faces.reports import NO_FACE, FaceReport, write_crops
from diffbir_jax.faces.restoring import FaceRestorer, Way, check_photo
from diffbir_jax.restoration.image import Request
from diffbir_jax.restoration.pictures import Picture, Result, index_of, take
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.restoration.results import Wanted
from diffbir_jax.sampling.options import Options


class Whole(NamedTuple):
    """A photo with its faces restored.

    Attributes:
        image: the result, of the kind of the picture that was given; None with the background "none".
        faces: from left to right.
        note: "no face" if there is none, then `image` is the background, or None without one; else empty.
    """

    image: Result | None
    faces: tuple[FaceReport, ...]
    note: str = ""


def restore_faces(
    pictures: Sequence[Picture],
    restorer: Restorer,
    upscale: float = 1.0,
    options: Options | None = None,
    *,
    background: str | Path | Picture | Sequence[Picture] = "sr",
    behind: Restorer | None = None,
    choice: Faces | None = None,
    detector: Detector | None = None,
    judge: SFace | None = None,
    zoom: int | None = None,
    memory: int | None = None,
    wanted: Wanted | None = None,
) -> list[Whole]:
    """Restore the faces of photos, and paste them into the photos' backgrounds.

    The faces of many photos are crops of one size, so that they share batches and one compiled program.

    Args:
        pictures: the photos, as `restoration.pictures.take` reads them.
        restorer: restores the crops.
        upscale: side of the result divided by that of the photo.
        options: how to sample; by default the operating point of the restorer's preset.
        background: "sr": the photo restored; "resize": the photo resized by Pillow's bicubic filter; "none": there is
            no whole photo; a folder of pictures named as the photos, which are then paths; or a picture per photo.
            These have the photo's proportions and are resized if need be.
        behind: restores backgrounds for "sr"; by default `restorer`.
        choice: which faces, and how they are pasted; by default all of them.
        detector: finds the faces; by default the shipped one.
        judge: compares identities before and after; None: nobody.
        zoom: crops have 512 / zoom pixels and are restored to 512: 1, 2 or 4; by default as the preset needs it.
        memory: bytes that may be taken; by default most of what there is.
        wanted: `stage1_only` and `listen` of it are taken.

    Returns:
        a `Whole` per picture, in order. A photo without a face is its background and says so.

    Raises:
        UserError: a picture, a background or an option that cannot be used.
        ImageFileError: a file cannot be read.
    """
    options = options or restorer.options()
    wanted = wanted or Wanted(options)
    wanted = wanted._replace(options=options, keep=False)
    taken = [take(picture) for picture in pictures]
    word, given = grounds_of(background, pictures, [each.pixels for each in taken])
    way = Way(choice or Faces(), word, detector, judge, zoom)  # pyright: ignore[reportArgumentType]
    requests = [
        Request(each.pixels, index_of(picture, place), behind=ground)
        for place, (picture, each, ground) in enumerate(zip(pictures, taken, given))
    ]
    for request in requests:
        check_photo(request, upscale)
    both = FaceRestorer(restorer, behind, way)
    sizes = [_sizes(each.pixels, upscale) for each in taken]
    both.plan = crops_plan(both, wanted, sizes, memory).plan if sizes else None
    found: dict[int, Whole] = {}
    for outcome in both.restore_many(
        requests,
        upscale,
        options,
        plan=photos_plan(both, wanted, sizes, memory).plan if word == "sr" and sizes else None,
        keep=False,
        stage1_only=wanted.stage1_only,
        listen=wanted.listen,
    ):
        results = outcome.all()
        image = taken[outcome.position].like(results[0].image) if results else None
        found[outcome.position] = Whole(image, outcome.about, "" if outcome.about else NO_FACE)
    return [found[position] for position in range(len(taken))]


def _sizes(pixels: np.ndarray, upscale: float) -> tuple[tuple[int, int], tuple[int, int]]:
    height, width = pixels.shape[:2]
    return (height, width), (round(height * upscale), round(width * upscale))


def save_crops(whole: Whole, folder: str | Path, stem: str) -> list[Path]:
    """Write the crops of a photo's restored faces as PNG; all faces are counted from left to right.

    Args:
        whole: the photo.
        folder: for the files.
        stem: beginning of the files' names; one that no other photo has.

    Returns:
        the files: STEM_face_01_before.png and STEM_face_01_after.png, and so on.

    Raises:
        ImageFileError: a file cannot be written.
    """
    return write_crops(whole.faces, Path(folder) / f"{stem}_face")
