"""Restore photographs: python sample.py --input FILE_OR_DIR --output DIR. See --help."""

import argparse
import dataclasses
import os
import sys
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import NoReturn, get_args

import jax
import numpy as np
from tqdm import tqdm

from diffbir_jax.imaging.files import ImageFileError, list_images, read_image, write_png
from diffbir_jax.models.presets import PRESETS
from diffbir_jax.pipeline import DEFAULTS, Options, Restored, Restorer
from diffbir_jax.sampling.guidance import Loss, Space

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "diffbir_jax" / "compiled"
INTERRUPTED = 130
# What users can mend; anything else is a bug and shows its traceback.
EXPECTED = (ImageFileError, ValueError, OSError)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print `message` without the usage and exit with 2."""
        self.exit(2, f"{self.prog}: {message}; --help explains every flag\n")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(
        prog="sample.py",
        description="Restore photographs of unknown degradation: stage 1 cleans, stage 2 regenerates detail.",
        epilog="Exit code: 0 if every image was restored, 1 if some or all were not, 2 for a bad flag, "
        f"{INTERRUPTED} if interrupted.",
        allow_abbrev=False,
    )
    add_file_flags(parser.add_argument_group("files"))
    add_stage2_flags(parser.add_argument_group("stage 2"))
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
        "--version", choices=sorted(PRESETS), default="tiny", help="preset of networks (default: %(default)s)"
    )
    weights = "folder of rm, vae, unet and control .safetensors (default: those shipped for the preset)"
    add("--weights", type=Path, metavar="DIR", help=weights)
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


def add_stage2_flags(group: argparse._ArgumentGroup) -> None:
    """Declare the fields of `Options`, which holds their defaults and ranges."""

    def add(flag: str, kind: type, text: str, **more: object) -> None:
        default = preset_defaults(flag.lstrip("-").replace("-", "_"))
        group.add_argument(flag, type=kind, help=f"{text} (default: {default})", **more)  # pyright: ignore

    add("--steps", int, "sampling steps, 1 to 1000 times --start", metavar="N")
    start = "share of the noise schedule to start from, above 0: 1 is pure noise, less keeps more of stage 1"
    add("--start", float, start, metavar="X")
    scale = "pull toward stage 1 in flat regions: 0 is off, more is more faithful and smoother"
    add("--guidance-scale", float, scale, metavar="S")
    loss = "w_mse: as the reference; paper: weight inside the norm; mse: unweighted"
    add("--guidance-loss", str, loss, choices=get_args(Loss))
    space = "where stage 1 and the prediction are compared: rgb through the decoder (the paper), or latent (cheaper)"
    add("--guidance-space", str, space, choices=get_args(Space))
    add("--strength", float, "factor on the control signals; 0 is off", metavar="X")
    add("--seed", int, "seed of the noise, 0 to 2^32 - 1: the same seed repeats a result", metavar="N")


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
    values = {preset: f"{getattr(DEFAULTS.get(preset, Options()), name)}" for preset in PRESETS}
    if len(set(values.values())) == 1:
        return values.popitem()[1]
    return ", ".join(f"{value} for {preset}" for preset, value in values.items())


def options_from(args: argparse.Namespace) -> Options:
    """Return the preset's operating point with what the command line changes."""
    given = {f.name: getattr(args, f.name, None) for f in dataclasses.fields(Options)}
    changes = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(DEFAULTS.get(args.version, Options()), **changes)


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


def restore_file(restorer: Restorer, path: Path, options: Options, args: argparse.Namespace) -> bool:
    """Restore one file and say so; return False, with a line on the error stream, if that fails."""
    begin = time.perf_counter()
    try:
        restored = restorer.restore_one(read_image(path), args.upscale, options, noise_index(path))
        write(restored, path.stem, args)
    except MemoryError:
        complain(f"{path}: memory does not suffice; lower --upscale or crop the image")
        return False
    except EXPECTED as error:
        complain(error if isinstance(error, ImageFileError) else f"{path}: {one_line(error)}")
        return False
    height, width = restored.image.shape[:2]
    tqdm.write(f"{args.output / path.stem}.png  {width}x{height}  {time.perf_counter() - begin:.1f} s")
    return True


def run(args: argparse.Namespace) -> int:
    """Restore every input; return the exit code.

    Raises:
        ImageFileError, ValueError, FileNotFoundError: before any image is restored, if none can be.
    """
    options, inputs = options_from(args), find_inputs(args)
    restorer = Restorer.load(args.version, args.weights)
    restorer.check(options)
    make_folder(args.output)
    done: list[bool] = []
    try:
        for path in tqdm(inputs, "restoring", unit="image", disable=None):
            done.append(restore_file(restorer, path, options, args))
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
