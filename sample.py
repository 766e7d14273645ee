"""Restore photographs: python sample.py --input FILE_OR_DIR --output DIR. See --help."""

import argparse
import os
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

import jax
import numpy as np
from tqdm import tqdm

from diffbir_jax.cli import INTERRUPTED
from diffbir_jax.flags import options_from, parse
from diffbir_jax.imaging.listing import list_images
from diffbir_jax.imaging.photo import ImageFileError
from diffbir_jax.imaging.reading import read_image
from diffbir_jax.imaging.writing import write_png
from diffbir_jax.loading import NO_STAGE1, PRECISIONS, load_params, weights_folder, with_stage1
from diffbir_jax.metrics.spread import deviation_map
from diffbir_jax.models.presets import get_preset
from diffbir_jax.pipeline import Restored, Restorer
from diffbir_jax.sampling.options import Options

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "diffbir_jax" / "compiled"
# What users can mend; anything else is a bug and shows its traceback.
EXPECTED = (ImageFileError, ValueError, OSError)


# Standard deviation, in levels, that the map of what was invented shows as white.
WHITE_DEVIATION = 16


class Job(NamedTuple):
    """An input file and the files that the user made for it.

    Attributes:
        path: the input.
        clean: its ready-made stage-1 image, or None.
        mask: its fidelity mask, or None.
        weight: where to write its guidance map, or None.
    """

    path: Path
    clean: Path | None
    mask: Path | None
    weight: Path | None


def numbers(args: argparse.Namespace) -> list[str]:
    """Return what tells the results of one input apart."""
    return [""] if args.n_samples == 1 else [f"_{i + 1}" for i in range(args.n_samples)]


def suffixes(args: argparse.Namespace) -> list[str]:
    """Return what follows an input's stem in the names of its results."""
    compared = [f"{number}_compare" for number in numbers(args)] if args.compare else []
    return numbers(args) + compared + ["_stage1"] * args.save_stages + ["_std"] * args.std_map


def check_flags(args: argparse.Namespace) -> None:
    """Raise ValueError for flags that contradict each other."""
    if args.std_map and args.n_samples == 1:
        raise ValueError("--std-map compares several results; give --n-samples of at least 2")
    if args.stage1_only and (args.n_samples > 1 or args.guidance_map or args.fidelity_mask):
        raise ValueError(
            "--stage1-only knows no --n-samples, --guidance-map and --fidelity-mask: leave them out"
        )
    if args.guidance_map and (args.guidance_map.suffix.lower() == ".png") == args.input.is_dir():
        wanted = (
            "a folder for a folder of inputs" if args.input.is_dir() else "a .png file for a single input"
        )
        raise ValueError(f"--guidance-map is {args.guidance_map}; give {wanted}")
    if args.fidelity_mask and not options_from(args).guidance_scale:
        raise ValueError("--fidelity-mask weighs guidance, which is off; give --guidance-scale as well")


def find_inputs(args: argparse.Namespace) -> list[Path]:
    """Return the image files to restore.

    Raises:
        ImageFileError: nothing is there, or results would overwrite inputs or each other.
    """
    path, output = args.input, args.output
    if not path.exists():
        raise ImageFileError(
            f"{path}: no such file or folder; give an image or a folder of images as --input"
        )
    inputs = list_images(path) if path.is_dir() else [path]
    if output.resolve() == inputs[0].parent.resolve():
        raise ImageFileError(
            f"{output}: is the folder of the inputs; give another --output, or originals may be lost"
        )
    names = Counter(f"{p.stem}{suffix}.png" for p in inputs for suffix in suffixes(args))
    clashes = [name for name, count in names.items() if count > 1]
    if clashes:
        raise ImageFileError(
            f"{path}: several images would be written as {', '.join(clashes)}; rename all but one"
        )
    return inputs


def find_jobs(args: argparse.Namespace) -> list[Job]:
    """Return what there is to do.

    Raises:
        ImageFileError: as in `find_inputs` and `named_as`, or maps or results would overwrite files of the user's or
            each other.
    """
    inputs = find_inputs(args)
    clean, masks = stage1_images(args, inputs), fidelity_masks(args, inputs)
    jobs = [Job(path, clean.get(path), masks.get(path), map_path(args, path)) for path in inputs]
    given = {path.resolve() for job in jobs for path in job[:3] if path}
    results = [args.output / f"{path.stem}{suffix}.png" for path in inputs for suffix in suffixes(args)]
    written = [*results, *(job.weight for job in jobs if job.weight)]
    places = Counter(path.resolve() for path in written)
    bad = {str(path): None for path in written if places[path.resolve()] > 1 or path.resolve() in given}
    if bad:
        raise ImageFileError(
            f"{', '.join(bad)}: would be overwritten; give another --output or --guidance-map"
        )
    return jobs


def map_path(args: argparse.Namespace, path: Path) -> Path | None:
    """Return where to write an input's guidance map, if at all."""
    if args.guidance_map is None or not args.input.is_dir():
        return args.guidance_map
    return args.guidance_map / f"{path.stem}.png"


def stage1_images(args: argparse.Namespace, inputs: list[Path]) -> dict[Path, Path]:
    """Return the ready-made stage-1 image of each input, none unless --stage1 is a folder; errors as in `named_as`."""
    folder = Path(args.stage1 or "")
    named = weights_folder(get_preset(args.version), args.weights) / f"{args.stage1}.safetensors"
    if not args.stage1 or args.stage1 == NO_STAGE1 or named.is_file() or not folder.is_dir():
        return {}
    return named_as(inputs, folder, args.output, "stage-1 image")


def fidelity_masks(args: argparse.Namespace, inputs: list[Path]) -> dict[Path, Path]:
    """Return the fidelity mask of each input, none without --fidelity-mask; errors as in `named_as`."""
    mask: Path | None = args.fidelity_mask
    if mask is None:
        return {}
    if not mask.is_dir():
        return {path: mask for path in inputs}
    return named_as(inputs, mask, args.output, "mask")


def named_as(inputs: list[Path], folder: Path, output: Path, what: str) -> dict[Path, Path]:
    """Return the image of the same stem in `folder` for each input.

    Raises:
        ImageFileError: images are missing in the folder or there several times (all are listed), or results would
            overwrite them.
    """
    if output.resolve() == folder.resolve():
        raise ImageFileError(f"{output}: is the folder of the {what}s; give another --output")
    ready = {stem: [p for p in list_images(folder) if p.stem == stem] for stem in (p.stem for p in inputs)}
    bad = [stem for stem, paths in ready.items() if len(paths) != 1]
    if bad:
        raise ImageFileError(f"{folder}: holds no {what}, or several, named {', '.join(bad)}; give one each")
    return {path: ready[path.stem][0] for path in inputs}


def make_folder(path: Path) -> None:
    """Make the folder of the results, before anything is computed for it.

    Raises:
        ImageFileError: that fails, or files cannot be written there.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageFileError(
            f"{path}: cannot be made a folder ({error.strerror}); choose another --output"
        ) from None
    if not os.access(path, os.W_OK):
        raise ImageFileError(f"{path}: is read-only; change its permissions or choose another --output")


def noise_index(path: Path) -> int:
    """Return the index of an image's noise, from its name: alone or in a folder it comes out alike."""
    return zlib.crc32(path.stem.encode())


def read_grey(path: Path) -> np.ndarray:
    """Read an image file as (H, W) uint8; errors as in `read_image`."""
    return np.rint(read_image(path).mean(axis=2)).astype(np.uint8)


def restore(restorer: Restorer, job: Job, options: Options, args: argparse.Namespace) -> Iterator[Restored]:
    """Restore the image of a file, as often as asked for; write the guidance map."""
    image = read_image(job.path)
    clean, mask = job.clean and read_image(job.clean), job.mask and read_grey(job.mask)
    if args.stage1_only:
        yield restorer.clean_one(image, args.upscale, clean)
        return
    index, asked = noise_index(job.path), job.weight is not None
    yield from restorer.variants(
        image, args.upscale, options, args.n_samples, index, clean=clean, mask=mask, with_fidelity=asked
    )


def write(results: Iterator[Restored], job: Job, args: argparse.Namespace) -> tuple[int, int]:
    """Write results as they come, and what was asked for beside them; return their height and width."""
    images, stem = [], job.path.stem
    for number, restored in zip(numbers(args), results, strict=True):
        if job.weight and restored.fidelity is not None:
            write_png(job.weight, restored.fidelity)
        images.append(restored.image)
        write_png(args.output / f"{stem}{number}.png", restored.image)
        if args.compare:
            panels = np.concatenate([restored.upscaled, restored.stage1, restored.image], axis=1)
            write_png(args.output / f"{stem}{number}_compare.png", panels)
        if args.save_stages:
            write_png(args.output / f"{stem}_stage1.png", restored.stage1)
    if args.std_map:
        share = deviation_map(images) / WHITE_DEVIATION
        write_png(args.output / f"{stem}_std.png", np.rint(255 * share.clip(0, 1)).astype(np.uint8))
    return images[0].shape[:2]


def restore_file(restorer: Restorer, job: Job, options: Options, args: argparse.Namespace) -> bool:
    """Restore one file and say so; return False, with a line on the error stream, if that fails."""
    begin, path = time.perf_counter(), job.path
    try:
        height, width = write(restore(restorer, job, options, args), job, args)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        complain(
            f"{path}: memory does not suffice; lower --upscale, give --tile or --precision, or crop the image"
        )
        return False
    except EXPECTED as error:
        complain(error if isinstance(error, ImageFileError) else f"{path}: {one_line(error)}")
        return False
    name = f"{path.stem}{numbers(args)[-1]}.png"
    tqdm.write(f"{args.output / name}  {width}x{height}  {time.perf_counter() - begin:.1f} s")
    return True


def load(args: argparse.Namespace, stage1: str | None) -> Restorer:
    """Load the networks that the command line needs."""
    preset = with_stage1(get_preset(args.version, args.task), stage1, args.weights)
    modules = [name for name in preset.modules if name == "rm" or not args.stage1_only]
    params = load_params(preset, args.weights, PRECISIONS[args.precision], modules)
    return Restorer(preset, params, PRECISIONS[args.precision])


def run(args: argparse.Namespace) -> int:
    """Restore every input; return the exit code.

    Raises:
        ImageFileError, ValueError, FileNotFoundError: before any image is restored, if none can be.
    """
    check_flags(args)
    options, jobs = options_from(args), find_jobs(args)
    restorer = load(args, NO_STAGE1 if jobs[0].clean else args.stage1)
    if not args.stage1_only:
        restorer.check(options)
    make_folder(args.output)
    done: list[bool] = []
    try:
        for job in tqdm(jobs, "restoring", unit="image", disable=None):
            done.append(restore_file(restorer, job, options, args))
    except KeyboardInterrupt:
        complain(f"interrupted, {len(jobs) - len(done)} of {len(jobs)} images left")
    print(f"{sum(done)} restored, {len(done) - sum(done)} failed")
    return INTERRUPTED if len(done) < len(jobs) else int(not all(done))


def complain(message: object) -> None:
    """Print a line to the error stream without tearing the progress bar."""
    tqdm.write(f"sample.py: {message}", file=sys.stderr)


def one_line(error: BaseException) -> str:
    """Return an error's message, of a list of problems only the first."""
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(lines[:2]) + (" ..." if len(lines) > 2 else "")


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    args = parse(argv)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(CACHE))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    if args.precision == "fp32":
        # By default TPUs multiply float32 in passes of bfloat16, recent GPUs in TF32.
        jax.config.update("jax_default_matmul_precision", "highest")
    try:
        sys.exit(run(args))
    except EXPECTED as error:
        complain(one_line(error))
        sys.exit(1)
    except KeyboardInterrupt:
        complain("interrupted")
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
