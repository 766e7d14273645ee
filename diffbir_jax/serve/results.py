"""Uploads to photos, and restored pixels to files with their sidecars: as `batch` does, but in memory."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from diffbir_jax.batch.jobs import Job as FileJob
from diffbir_jax.batch.names import Outputs, suffix_of
from diffbir_jax.batch.photos import Loaded, dressed, file_depth, to_depth
from diffbir_jax.batch.settings import Recipe
from diffbir_jax.batch.sidecar import Recorder
from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.imaging.photo import Photo
from diffbir_jax.imaging.reading import photo_of
from diffbir_jax.imaging.writing import check_output, encode_photo
from diffbir_jax.restoration.image import Request
from diffbir_jax.restoration.plan import Plan
from diffbir_jax.restoration.results import Restored
from diffbir_jax.serve.jobs import Job, Result
from diffbir_jax.serve.limits import Limits
from diffbir_jax.serve.networks import scaled
from diffbir_jax.serve.refusals import NoPictureError, Refusal, TooLargeError
from diffbir_jax.serve.wishes import Wish

MEDIA = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
# Quality of the JPEG files that a page shows.
SHOWN = 92


def job_of(
    data: bytes, wish: Wish, limits: Limits, owner: str = "", views: bool = False, waits: bool = False
) -> Job:
    """Return the job of an upload.

    Args:
        data: the file.
        wish: how it is restored.
        limits: of the service.
        owner: the client.
        views, waits: attributes of the job.

    Raises:
        Refusal: the file is no picture, too large, or not that of the wish's sidecar.
    """
    photo = _photo(data, limits)
    check_size(wish, (photo.pixels.shape[0], photo.pixels.shape[1]), limits)
    digest = hashlib.sha256(data).hexdigest()
    if wish.sidecar is not None and wish.sidecar.input.sha256 != digest:
        raise Refusal("the picture is not the one that the sidecar names (its SHA-256 differs)")
    photo = dataclasses.replace(photo, pixels=_pixels(photo, wish))
    return Job(wish, photo, {"path": wish.name, "sha256": digest, "bytes": len(data)}, owner, views, waits)


def _photo(data: bytes, limits: Limits) -> Photo:
    try:
        return photo_of(data, limits.pixels)
    except ImageFileError as error:
        # The size of a picture is checked before its content.
        kind = TooLargeError if "more than the limit" in str(error) else NoPictureError
        raise kind(
            f"image: {str(error).replace('; crop or shrink it, or raise `max_pixels` if you trust it', '')}"
        ) from None


def _pixels(photo: Photo, wish: Wish) -> np.ndarray:
    """The pixels for the restorer: results with 16 bits need inputs with 16."""
    return to_depth(photo.pixels, "16") if wish.recipe.bit_depth == "16" else photo.pixels


def check_size(wish: Wish, size: tuple[int, int], limits: Limits) -> None:
    """Raise TooLargeError for an input of this height and width whose result is larger than allowed."""
    height, width = scaled(size, wish.recipe.upscale)
    if size[0] * size[1] > limits.pixels:
        raise TooLargeError(f"image: {size[1]}x{size[0]} pixels are given, allowed are {limits.pixels}")
    if height * width > limits.output_pixels:
        raise TooLargeError(
            f"the result would be {width}x{height} pixels, allowed are {limits.output_pixels}; give a lower `upscale`"
        )
    try:
        check_output(result_name(wish), height, width)
    except ImageFileError as error:
        raise TooLargeError(str(error)) from None


def result_name(wish: Wish) -> str:
    """Return the name of the result's file."""
    name = Path(wish.name)
    return f"{name.stem}{suffix_of(wish.recipe, name)}"


def request_of(job: Job) -> Request:
    """Take the pixels out of a job, as a request to the restorer."""
    assert job.photo is not None
    request = Request(job.photo.pixels, job.wish.index)
    job.photo = dataclasses.replace(job.photo, pixels=np.empty((0, 0, 3), np.uint8))
    return request


def finished(
    job: Job,
    photo: Photo,
    restored: Restored,
    plan: Plan | None,
    files: Mapping[str, Path],
    seconds: float,
) -> Result:
    """Return the files of a job.

    Args:
        job: the job.
        photo: its input, without pixels.
        restored: what the restorer made.
        plan: how it was cut.
        files: the weights by network.
        seconds: the time that computing took, for the sidecar.

    Raises:
        ImageFileError: the picture cannot be encoded.
    """
    recipe, name = job.wish.recipe, result_name(job.wish)
    depth = file_depth(Path(name), recipe.bit_depth)
    data, _ = encode_photo(dressed(restored.image, photo, depth), Path(name).suffix, quality=recipe.quality)
    views = _views(restored, photo) if job.views else {}
    media = MEDIA.get(Path(name).suffix, "image/tiff")
    return Result(data, media, name, _sidecar(job, name, plan, files, seconds), views)


def _sidecar(
    job: Job, name: str, plan: Plan | None, files: Mapping[str, Path], seconds: float
) -> dict[str, object]:
    recipe, own = job.wish.recipe, Path(job.wish.name)
    ran = {module: path for module, path in files.items() if module == "rm" or not recipe.stage1_only}
    recorder = _recorder(recipe, plan, tuple(sorted(ran.items())))
    outputs = Outputs(Path(), (Path(name),))
    sources = {"input": job.file, "clean": None, "mask": None}
    return recorder.record(
        Loaded(FileJob(own, own, job.wish.index, outputs), files=sources), {"compute": seconds}
    )


@functools.lru_cache(maxsize=64)
def _recorder(recipe: Recipe, plan: Plan | None, files: tuple[tuple[str, Path], ...]) -> Recorder:
    return Recorder(recipe, recipe.version, dict(files), plan)


def _views(restored: Restored, photo: Photo) -> dict[str, bytes]:
    pictures = {"input": restored.upscaled, "stage1": restored.stage1, "result": restored.image}
    return {
        name: encode_photo(dressed(pixels, photo, "8"), ".jpg", quality=SHOWN)[0]
        for name, pixels in pictures.items()
    }
