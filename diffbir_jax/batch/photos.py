"""From a job's files to a request to the restorer, and from its results to files."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from diffbir_jax.batch.copies import copy_file
from diffbir_jax.batch.jobs import Job
from diffbir_jax.batch.settings import BitDepth, Recipe
from diffbir_jax.faces.reports import crop_file
from diffbir_jax.files.digest import FileRecord, file_record
from diffbir_jax.files.writing import check_length
from diffbir_jax.imaging.bytes import resize_alpha
from diffbir_jax.imaging.photo import Photo
from diffbir_jax.imaging.reading import over_white, read_image, read_photo, to_eight
from diffbir_jax.imaging.writing import check_output, write_photo, write_png
from diffbir_jax.metrics.spread import deviation_map
from diffbir_jax.restoration.restorer import Request, Restored

# The map of invented detail shows this standard deviation, in levels of 1/255, as white.
WHITE_DEVIATION = 16


@dataclass(frozen=True)
class Loaded:
    """A job with the contents of its files.

    Attributes:
        job: the job.
        photo: its input, without pixels once the restorer has them.
        request: the request to the restorer; None as soon as the restorer has it.
        read_seconds: time that reading took.
        files: path, SHA-256 and size of the files read, for the sidecar.
        error: why files cannot be read, or None.
    """

    job: Job
    photo: Photo | None = None
    request: Request | None = None
    read_seconds: float = 0.0
    files: Mapping[str, FileRecord | None] = field(default_factory=dict)
    error: Exception | None = None

    @property
    def pixels(self) -> int:
        """Number of pixels that it holds."""
        return 0 if self.photo is None else self.photo.pixels.size // 3

    def handed_over(self) -> "Loaded":
        """Return it without the pixels, which the restorer now has."""
        photo = None if self.photo is None else replace(self.photo, pixels=np.empty((0, 0, 3), np.uint8))
        return replace(self, photo=photo, request=None)


def load(job: Job, recipe: Recipe) -> Loaded:
    """Read the files of a job.

    Raises:
        ImageFileError, OSError: a file cannot be read.
    """
    begin = time.perf_counter()
    photo = read_photo(job.path, recipe.max_pixels)
    check_sizes(job, photo, recipe.upscale)
    clean = job.clean and read_image(job.clean, recipe.max_pixels)
    mask = job.mask and read_grey(job.mask, recipe.max_pixels)
    # A result with 16 bits needs an input with 16 bits; 8-bit files are made from the finer result.
    image = to_depth(photo.pixels, "16") if recipe.bit_depth == "16" else photo.pixels
    ground = None if job.ground is None else read_ground(job.ground, image, recipe.max_pixels)
    request = Request(image, job.index, clean, mask, behind=ground, caption=job.caption)
    files = {}
    if job.outputs.sidecar:
        sources = {"input": job.path, "clean": job.clean, "mask": job.mask}
        sources |= {"ground": job.ground} if job.ground else {}
        sources |= {"hides": Path(recipe.hides)} if recipe.hides else {}
        files = {name: path and file_record(path) for name, path in sources.items()}
    return Loaded(job, photo, request, time.perf_counter() - begin, files)


def check_sizes(job: Job, photo: Photo, upscale: float) -> None:
    """Raise ImageFileError if results are larger than their formats allow, or their names too long."""
    crops = [crop_file(job.outputs.crops, 9999, "after_1000")] if job.outputs.crops else []
    for path in (*job.outputs.all(), *crops):
        check_length(path, f"rename {job.path.name}")
    height, width = (round(side * upscale) for side in photo.pixels.shape[:2])
    for path in job.outputs.results:
        check_output(path, height, width)
    for path in job.outputs.compared:
        check_output(path, height, 3 * width)


def read_grey(path: Path, max_pixels: int) -> np.ndarray:
    """Read an image file as (H, W) uint8; errors as in `read_image`."""
    return grey_of(read_photo(path, max_pixels))


def grey_of(photo: Photo) -> np.ndarray:
    """Return a photo on white as (H, W) uint8: the mean of its channels."""
    return np.rint(to_eight(over_white(photo)).mean(axis=2)).astype(np.uint8)


def read_ground(path: Path, image: np.ndarray, max_pixels: int) -> np.ndarray:
    """Read an image file with the bits of `image`; errors as in `read_image`."""
    found = read_photo(path, max_pixels).pixels
    return to_depth(found, "8" if image.dtype == np.uint8 else "16")


def to_depth(values: np.ndarray, depth: BitDepth) -> np.ndarray:
    """Return uint8 or uint16 values with 8 or 16 bits, or unchanged; 255 becomes 65535."""
    if depth == "same" or values.dtype == {"8": np.uint8, "16": np.uint16}[depth]:
        return values
    return to_eight(values) if depth == "8" else values.astype(np.uint16) * np.uint16(257)


def dressed(pixels: np.ndarray, photo: Photo, depth: BitDepth, transparent: bool = True) -> Photo:
    """Return an image with the metadata, grayness and transparency of its input.

    Args:
        pixels: (H, W, 3) uint8 or uint16.
        photo: the input.
        depth: bits of the file.
        transparent: whether to take the input's transparency, resized.
    """
    pixels, alpha = to_depth(pixels, depth), None
    if transparent and photo.alpha is not None:
        alpha = resize_alpha(photo.alpha, (pixels.shape[0], pixels.shape[1]))
        alpha = to_depth(alpha, "16" if pixels.dtype == np.uint16 else "8")
    return replace(photo, pixels=pixels, alpha=alpha)


def in_colour(photo: Photo, recipe: Recipe) -> Photo:
    """Return an input as one with colours, if its result gets colours."""
    return replace(photo, grey=False) if recipe.colours else photo


def file_depth(path: Path, depth: BitDepth) -> BitDepth:
    """Return the bits of a result; JPEG and WebP hold 8."""
    return "8" if depth == "same" and path.suffix in (".jpg", ".jpeg", ".webp") else depth


def write_results(
    loaded: Loaded,
    results: Sequence[Restored],
    recipe: Recipe,
    note: Callable[[float], None],
) -> tuple[str, ...]:
    """Write all files of a job but crops, the main result last; return what was left out of it, see `write_photo`.

    Args:
        loaded: the job with its input.
        results: one per sample.
        recipe: formats and files to write.
        note: writes the sidecar; takes the seconds that writing took so far.

    Raises:
        ImageFileError: a file cannot be written.
    """
    begin, outputs, photo = time.perf_counter(), loaded.job.outputs, loaded.photo
    assert photo is not None
    photo = in_colour(photo, recipe)

    def save(path: Path, pixels: np.ndarray, transparent: bool = True) -> tuple[str, ...]:
        depth = file_depth(path, recipe.bit_depth)
        return write_photo(path, dressed(pixels, photo, depth, transparent), quality=recipe.quality)

    for path, restored in zip(outputs.compared, results):
        panels = (restored.upscaled, restored.stage1, restored.image)
        save(path, np.concatenate(panels, axis=1), transparent=False)
    if outputs.stage1:
        save(outputs.stage1, results[0].stage1)
    write_maps(loaded, results)
    for path, restored in reversed(list(zip(outputs.results[1:], results[1:], strict=True))):
        save(path, restored.image)
    note(time.perf_counter() - begin)
    if recipe.copied:
        copy_file(loaded.job.path, outputs.results[0])
        return ()
    return save(outputs.results[0], results[0].image) if outputs.results else ()


def write_maps(loaded: Loaded, results: Sequence[Restored]) -> None:
    """Write the map of differences between results and the guidance map, if the user wants them."""
    outputs = loaded.job.outputs
    if outputs.weight and results[0].fidelity is not None:
        write_png(outputs.weight, results[0].fidelity)
    if outputs.deviation:
        write_png(outputs.deviation, shown_deviation(results))


def shown_deviation(results: Sequence[Restored]) -> np.ndarray:
    """Return the map of differences between at least two results, (H, W) uint8; see `WHITE_DEVIATION`."""
    share = deviation_map([to_depth(restored.image, "8") for restored in results]) / WHITE_DEVIATION
    return np.rint(255 * share.clip(0, 1)).astype(np.uint8)
