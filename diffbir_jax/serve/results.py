"""Uploads to photos, and restored pixels to files with their sidecars: as `batch` does, but in memory."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffbir_jax.batch.auto import settled
from diffbir_jax.batch.jobs import Job as FileJob
from diffbir_jax.batch.names import Outputs, outputs_of
from diffbir_jax.batch.photos import (
    Loaded,
    dressed,
    file_depth,
    grey_of,
    in_colour,
    shown_deviation,
    to_depth,
)
from diffbir_jax.batch.settings import Recipe, Settings
from diffbir_jax.batch.sidecar import Recorder
from diffbir_jax.console.errors import UserError
from diffbir_jax.files.digest import FileRecord
from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.imaging.checks import check_proportions
from diffbir_jax.imaging.decoding import HEAD
from diffbir_jax.imaging.encoding import encode_png
from diffbir_jax.imaging.photo import Metadata, Photo
from diffbir_jax.imaging.reading import photo_of
from diffbir_jax.imaging.writing import check_output, encode_photo
from diffbir_jax.restoration.image import Request
from diffbir_jax.restoration.plan import Plan
from diffbir_jax.restoration.results import Restored
from diffbir_jax.serve.jobs import File, Finished, Job, Result
from diffbir_jax.serve.limits import Limits
from diffbir_jax.serve.networks import scaled
from diffbir_jax.serve.refusals import NoPictureError, Refusal, TooLargeError
from diffbir_jax.serve.wishes import Wish

MEDIA = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
# Networks of stage 1 among the weights: of pictures, and of faces where these have another one.
STAGE1 = ("rm", "face_rm")
# Quality of the JPEG files that a page shows.
SHOWN = 92


class Sent(NamedTuple):
    """A file from a client: its content and its name without folders."""

    data: bytes
    name: str


def job_of(
    image: Sent,
    mask: Sent | None,
    wish: Wish,
    limits: Limits,
    owner: str = "",
    *,
    views: bool = False,
    waits: bool = False,
) -> Job:
    """Return the job of an upload.

    Args:
        image: the picture.
        mask: the fidelity mask, or None.
        wish: how the picture is restored; its name comes before that of `image`.
        limits: of the service.
        owner: the client.
        views, waits: attributes of the job.

    Raises:
        Refusal: a file is no picture, too large, or not that of the wish's sidecar, or the mask is cropped.
    """
    photo = _photo(image, limits, "image")
    check_size(wish, (photo.pixels.shape[0], photo.pixels.shape[1]), limits)
    held = None if mask is None else _mask(mask, photo, limits)
    told = None if mask is None else _record(mask, mask.name)
    files = {"input": _record(image, wish.name), "clean": None, "mask": told}
    _check_repeated(wish, files)
    photo = dataclasses.replace(photo, pixels=_pixels(photo, wish))
    return Job(wish, photo, files, owner, held, views, waits, image.data if wish.may_copy else None)


def _record(file: Sent, name: str) -> FileRecord:
    return {"path": name, "sha256": hashlib.sha256(file.data).hexdigest(), "bytes": len(file.data)}


def _check_repeated(wish: Wish, files: Mapping[str, FileRecord | None]) -> None:
    """Raise Refusal unless the files are those of the wish's sidecar, if there is one."""
    if wish.sidecar is None:
        return
    for what, then, now in (
        ("picture", wish.sidecar.input, files["input"]),
        ("mask", wish.sidecar.mask, files["mask"]),
    ):
        if then is not None and now is not None and now["sha256"] != then.sha256:
            raise Refusal(f"the {what} is not the one that the sidecar names (its SHA-256 differs)")


def _mask(mask: Sent, photo: Photo, limits: Limits) -> np.ndarray:
    """The values of a mask, of the photo's proportions."""
    found = grey_of(_photo(mask, limits, "fidelity_mask"))
    try:
        check_proportions(found, photo.pixels, "mask")
    except UserError as error:
        raise Refusal(str(error)) from None
    return found


def _photo(file: Sent, limits: Limits, field: str) -> Photo:
    try:
        return photo_of(file.data, limits.pixels)
    except ImageFileError as error:
        # The size of a picture is checked before its content.
        kind = TooLargeError if "more than the limit" in str(error) else NoPictureError
        raise kind(
            f"{field}: {str(error).replace('; crop or shrink it, or raise `max_pixels` if you trust it', '')}"
        ) from None


def _pixels(photo: Photo, wish: Wish) -> np.ndarray:
    """The pixels for the restorer: results with 16 bits need inputs with 16."""
    return to_depth(photo.pixels, "16") if wish.recipe.bit_depth == "16" else photo.pixels


def check_size(wish: Wish, size: tuple[int, int], limits: Limits) -> None:
    """Check the results of an input of this height and width; Refusal for more or larger ones than allowed."""
    (height, width), count = scaled(size, wish.recipe.upscale), wish.recipe.n_samples
    if count > limits.samples:
        raise Refusal(f"options: `n_samples` is {count}; this service allows 1 to {limits.samples}")
    if round(min(size) * wish.recipe.upscale) < 1:
        raise Refusal(
            f"options: `upscale` is {wish.recipe.upscale:g}, which leaves no pixel of {size[1]}x{size[0]}; "
            "give a larger one"
        )
    if size[0] * size[1] > limits.pixels:
        raise TooLargeError(f"image: {size[1]}x{size[0]} pixels are given, allowed are {limits.pixels}")
    if count * height * width > limits.output_pixels:
        several = f"{count} results of" if count > 1 else "the result would be"
        raise TooLargeError(
            f"{several} {width}x{height} pixels, allowed are {limits.output_pixels}; give a lower `upscale`"
        )
    try:
        check_output(outputs(wish).main, height, width)
    except ImageFileError as error:
        raise TooLargeError(str(error)) from None


def outputs(wish: Wish) -> Outputs:
    """Return the files of a wish, named as the command names them; none lies in a folder, and the sidecar is none."""
    return outputs_of(Settings(wish.recipe, Path(), sidecar=False), Path(wish.name), False)


def request_of(job: Job) -> Request:
    """Take the pixels out of a job, as a request to the restorer."""
    assert job.photo is not None
    request = Request(job.photo.pixels, job.wish.index, mask=job.mask, caption=job.wish.caption)
    job.mask = None
    job.photo = dataclasses.replace(job.photo, pixels=np.empty((0, 0, 3), np.uint8))
    return request


def decided(wish: Wish, photo: Photo, data: bytes | None) -> Wish:
    """Return a wish with the settings that its picture gets, see `batch.auto.settled`; as it is without `auto`.

    Args:
        wish: the wish.
        photo: the picture with its pixels.
        data: its file, if the result may be a copy of it.
    """
    if wish.given is None:
        return wish
    head, suffix = (data or b"")[:HEAD], outputs(wish).main.suffix
    recipe, decision = settled(photo, head, suffix, wish.recipe, wish.given)
    return wish._replace(recipe=recipe, given=None, decision=decision)


def finished(made: Finished, photo: Photo, files: Mapping[str, Path], data: bytes | None = None) -> Result:
    """Return the files of a job.

    Args:
        made: the job with its pixels.
        photo: its input, without pixels.
        files: the weights by network.
        data: the file of the input, for results that are copies.

    Raises:
        ImageFileError: a picture cannot be encoded.
    """
    job, samples = made.job, made.samples
    named, recipe = outputs(job.wish), job.wish.recipe
    pictures = tuple(
        _picture(path, each, photo, recipe, data) for path, each in zip(named.results, samples, strict=True)
    )
    views, deviation = _views(samples, photo) if job.views else {}, None
    if named.deviation is not None:
        shown = shown_deviation(samples)[..., None]
        deviation = File(encode_png(shown, Metadata()), MEDIA[".png"], named.deviation.name)
        views |= {"std": _jpeg(Photo(shown.repeat(3, axis=2)))} if job.views else {}
    return Result(pictures, _sidecar(made, named, files), views, deviation)


def _picture(path: Path, restored: Restored, photo: Photo, recipe: Recipe, data: bytes | None) -> File:
    """A result as the file of a name."""
    if recipe.copied:
        assert data is not None
        return File(data, MEDIA.get(path.suffix, "image/tiff"), path.name)
    shown = dressed(restored.image, in_colour(photo, recipe), file_depth(path, recipe.bit_depth))
    data, _ = encode_photo(shown, path.suffix, quality=recipe.quality)
    return File(data, MEDIA.get(path.suffix, "image/tiff"), path.name)


def _sidecar(made: Finished, named: Outputs, files: Mapping[str, Path]) -> dict[str, object]:
    wish = made.job.wish
    recipe, own = wish.recipe, Path(wish.name)
    ran = {module: path for module, path in files.items() if module in STAGE1 or not recipe.stage1_only}
    recorder = _recorder(recipe, made.course.plan, made.course.crops, tuple(sorted(ran.items())))
    loaded = Loaded(FileJob(own, own, wish.index, named, caption=wish.caption), files=made.job.files)
    record = recorder.record(loaded, {"compute": made.seconds}, faces=made.faces)
    return record | ({} if wish.decision is None else {"auto": wish.decision.as_record()})


@functools.lru_cache(maxsize=64)
def _recorder(
    recipe: Recipe, plan: Plan | None, crops: Plan | None, files: tuple[tuple[str, Path], ...]
) -> Recorder:
    return Recorder(recipe, recipe.version, dict(files), plan, crops)


def _views(samples: Sequence[Restored], photo: Photo) -> dict[str, bytes]:
    """What a page shows: input, stage1, result (the first sample), and result2, result3 ... of several samples."""
    first, *others = samples
    pictures = {"input": first.upscaled, "stage1": first.stage1, "result": first.image}
    pictures |= {f"result{number}": each.image for number, each in enumerate(others, 2)}
    return {name: _jpeg(dressed(pixels, photo, "8")) for name, pixels in pictures.items()}


def _jpeg(photo: Photo) -> bytes:
    return encode_photo(photo, ".jpg", quality=SHOWN)[0]
