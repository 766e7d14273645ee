"""Restore photographs: python sample.py --input FILE_OR_DIR --output DIR. See --help."""

import argparse
import dataclasses
import os
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, get_args

import jax
import numpy as np
from tqdm import tqdm

from diffbir_jax.cli import INTERRUPTED, Parser
from diffbir_jax.defaults import default_options
from diffbir_jax.imaging.files import ImageFileError, list_images, read_image, write_png
from diffbir_jax.loading import NO_STAGE1, PRECISIONS, load_params, weights_folder, with_stage1
from diffbir_jax.models.presets import PRESETS, TASKS, get_preset
from diffbir_jax.pipeline import Restored, Restorer
from diffbir_jax.sampling.guidance import Loss, Space
from diffbir_jax.sampling.options import Options, StartPoint
from diffbir_jax.sampling.samplers import SAMPLERS

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "diffbir_jax" / "compiled"
# What users can mend; anything else is a bug and shows its traceback.
EXPECTED = (ImageFileError, ValueError, OSError)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(
        prog="sample.py",
        description="Restore photographs of unknown degradation: stage 1 cleans, stage 2 regenerates detail.",
        epilog="Exit code: 0 if every image was restored, 1 if some or all were not, 2 for a bad flag, "
        f"{INTERRUPTED} if interrupted.",
    )
    add_file_flags(parser.add_argument_group("files"))
    add_network_flags(parser.add_argument_group("networks"))
    add_stage2_flags(parser.add_argument_group("stage 2"))
    add_guidance_flags(parser.add_argument_group("guidance and control"))
    return parser.parse_args(argv)


def add_file_flags(group: argparse._ArgumentGroup) -> None:
    """Declare what is read and written."""
    add = group.add_argument
    image = "image (PNG, JPEG or WebP, at least 16x16 pixels)"
    add("--input", type=Path, required=True, help=f"{image}, or folder of images (required)")
    add(
        "--output",
        type=Path,
        required=True,
        help="folder for the results, <stem>.png; made if missing (required)",
    )
    add(
        "--upscale",
        type=positive,
        default=4.0,
        metavar="X",
        help="output side / input side (default: %(default)g)",
    )
    compare = "also write <stem>_compare.png: input | stage 1 | result (default: off)"
    add("--compare", action="store_true", help=compare)
    stages = "also write the stage-1 image as <stem>_stage1.png (default: off)"
    add("--save-stages", action="store_true", help=stages)


def add_network_flags(group: argparse._ArgumentGroup) -> None:
    """Declare which networks run, and how."""
    add = group.add_argument
    version = "preset of networks; tiny is shipped, the others need --weights (default: %(default)s)"
    add("--version", choices=sorted(PRESETS), default="tiny", help=version)
    task = "decides among the networks of v1, v2 and v2.1; tiny has one for all (default: %(default)s)"
    add("--task", choices=TASKS, default="sr", help=task)
    weights = (
        "folder of .safetensors files that convert_weights.py wrote (default: those shipped for the version)"
    )
    add("--weights", type=Path, metavar="DIR", help=weights)
    stage1 = (
        f"other restoration module: NAME in --weights, a .safetensors file, {NO_STAGE1} to leave it out, or a folder "
        "of ready-made stage-1 images named as the inputs (default: the version's for the task)"
    )
    add("--stage1", metavar="NAME|FILE|DIR", help=stage1)
    add("--stage1-only", action="store_true", help="write the image after stage 1 and stop (default: off)")
    precision = (
        "dtype of networks and weights; normalisation and softmax stay fp32; with fp32, products are exact on "
        "accelerators too (default: %(default)s)"
    )
    add("--precision", choices=PRECISIONS, default="fp32", help=precision)


def option_adder(group: argparse._ArgumentGroup) -> Callable[..., None]:
    """Return a function that declares a field of `Options`, which holds its default and range."""

    def add(flag: str, kind: type | None, text: str, **more: Any) -> None:
        default = preset_defaults(flag.lstrip("-").replace("-", "_"))
        more |= {"type": kind} if kind else {}
        group.add_argument(flag, help=f"{text} (default: {default})".replace("%", "%%"), **more)

    return add


def add_stage2_flags(group: argparse._ArgumentGroup) -> None:
    """Declare how stage 2 samples."""
    add = option_adder(group)
    add("--sampler", str, "algorithm that samples", choices=SAMPLERS)
    add("--steps", int, "sampling steps, 1 to 1000 times --start", metavar="N")
    start = "share of the noise schedule to start from, above 0: 1 is pure noise, less keeps more of stage 1"
    add("--start", float, start, metavar="X")
    point = "with --start 1, start from pure noise or from the stage-1 latent noised to the last timestep"
    add("--start-point", str, point, choices=get_args(StartPoint))
    add("--eta", float, "share of fresh noise per step, 0 to 1; None is the sampler's own", metavar="X")
    add("--pos-prompt", str, "what the result shall look like", metavar="TEXT")
    add("--neg-prompt", str, "what it shall not look like", metavar="TEXT")
    add("--cfg-scale", float, "scale of classifier-free guidance by the prompts; 1 is off", metavar="S")
    add(
        "--rescale-cfg",
        None,
        "let --cfg-scale rise from 1 while sampling",
        action=argparse.BooleanOptionalAction,
    )
    tile = "sample in overlapping tiles of so many pixels, a multiple of 64, if both sides are as long"
    add("--tile", int, tile, metavar="N")
    stride = "distance of the tiles in pixels, a multiple of 8; None is half a tile"
    add("--tile-stride", int, stride, metavar="N")
    add("--seed", int, "seed of the noise, 0 to 2^32 - 1: the same seed repeats a result", metavar="N")


def add_guidance_flags(group: argparse._ArgumentGroup) -> None:
    """Declare what keeps stage 2 with stage 1."""
    add = option_adder(group)
    scale = "pull toward stage 1 in flat regions: 0 is off, more is more faithful and smoother"
    add("--guidance-scale", float, scale, metavar="S")
    loss = "w_mse: as the reference; paper: weight inside the norm; mse: unweighted"
    add("--guidance-loss", str, loss, choices=get_args(Loss))
    space = "where stage 1 and the prediction are compared: rgb through the decoder (the paper), or latent (cheaper)"
    add("--guidance-space", str, space, choices=get_args(Space))
    add("--strength", float, "factor on the control signals; 0 is off", metavar="X")


def positive(text: str) -> float:
    """Read a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} given, allowed are finite numbers above 0")
    return value


def preset_defaults(name: str) -> str:
    """Say what a field of `Options` is by default, per preset if they differ."""
    values: dict[str, list[str]] = {}
    for preset in PRESETS:
        value = getattr(default_options(preset), name)
        values.setdefault("empty" if value == "" else str(value), []).append(preset)
    if len(values) == 1:
        return next(iter(values))
    return "; ".join(f"{', '.join(presets)}: {value}" for value, presets in values.items())


def options_from(args: argparse.Namespace) -> Options:
    """Return the preset's operating point with what the command line changes."""
    given = {f.name: getattr(args, f.name, None) for f in dataclasses.fields(Options)}
    changes = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(default_options(args.version), **changes)


def suffixes(args: argparse.Namespace) -> list[str]:
    """Return what follows an input's stem in the names of its results."""
    return [""] + ["_stage1"] * args.save_stages + ["_compare"] * args.compare


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


def stage1_images(args: argparse.Namespace, inputs: list[Path]) -> dict[Path, Path]:
    """Return the ready-made stage-1 image of each input, none unless --stage1 is a folder.

    Raises:
        ImageFileError: images are missing in the folder or there several times (all are listed), or results would
            overwrite them.
    """
    folder = Path(args.stage1 or "")
    named = weights_folder(get_preset(args.version), args.weights) / f"{args.stage1}.safetensors"
    if not args.stage1 or args.stage1 == NO_STAGE1 or named.is_file() or not folder.is_dir():
        return {}
    if args.output.resolve() == folder.resolve():
        raise ImageFileError(f"{args.output}: is the folder of the stage-1 images; give another --output")
    ready = {stem: [p for p in list_images(folder) if p.stem == stem] for stem in (p.stem for p in inputs)}
    bad = [stem for stem, paths in ready.items() if len(paths) != 1]
    if bad:
        raise ImageFileError(
            f"{folder}: holds no stage-1 image, or several, named {', '.join(bad)}; give one each"
        )
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


def write(restored: Restored, stem: str, args: argparse.Namespace) -> None:
    """Write one result and what was asked for beside it."""
    panels = np.concatenate([restored.upscaled, restored.stage1, restored.image], axis=1)
    images = {"": restored.image, "_stage1": restored.stage1, "_compare": panels}
    for suffix in suffixes(args):
        write_png(args.output / f"{stem}{suffix}.png", images[suffix])


def noise_index(path: Path) -> int:
    """Return the index of an image's noise, from its name: alone or in a folder it comes out alike."""
    return zlib.crc32(path.stem.encode())


def restore(
    restorer: Restorer, path: Path, ready: Path | None, options: Options, args: argparse.Namespace
) -> Restored:
    """Restore the image of a file, from its ready-made stage-1 image if there is one."""
    image, clean = read_image(path), None if ready is None else read_image(ready)
    if args.stage1_only:
        return restorer.clean_one(image, args.upscale, clean)
    return restorer.restore_one(image, args.upscale, options, noise_index(path), clean=clean)


def restore_file(
    restorer: Restorer, path: Path, ready: Path | None, options: Options, args: argparse.Namespace
) -> bool:
    """Restore one file and say so; return False, with a line on the error stream, if that fails."""
    begin = time.perf_counter()
    try:
        restored = restore(restorer, path, ready, options, args)
        write(restored, path.stem, args)
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
    height, width = restored.image.shape[:2]
    tqdm.write(f"{args.output / path.stem}.png  {width}x{height}  {time.perf_counter() - begin:.1f} s")
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
    options, inputs = options_from(args), find_inputs(args)
    ready = stage1_images(args, inputs)
    restorer = load(args, NO_STAGE1 if ready else args.stage1)
    if not args.stage1_only:
        restorer.check(options)
    make_folder(args.output)
    done: list[bool] = []
    try:
        for path in tqdm(inputs, "restoring", unit="image", disable=None):
            done.append(restore_file(restorer, path, ready.get(path), options, args))
    except KeyboardInterrupt:
        complain(f"interrupted, {len(inputs) - len(done)} of {len(inputs)} images left")
    print(f"{sum(done)} restored, {len(done) - sum(done)} failed")
    return INTERRUPTED if len(done) < len(inputs) else int(not all(done))


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
