"""Restore photographs: python sample.py --input FILE_OR_DIR --output DIR. See --help."""

import argparse
import dataclasses
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import get_args

import jax
import numpy as np
from tqdm import tqdm

from diffbir_jax.imaging.files import ImageFileError, list_images, read_image, write_png
from diffbir_jax.models.presets import PRESETS
from diffbir_jax.pipeline import DEFAULTS, Options, Restored, Restorer
from diffbir_jax.sampling.guidance import Loss

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "diffbir_jax" / "compiled"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="sample.py",
        description="Restore photographs of unknown degradation: stage 1 cleans, stage 2 regenerates detail.",
        epilog="Stage 2 defaults: " + "; ".join(f"{name}: {options}" for name, options in DEFAULTS.items()),
    )
    add = parser.add_argument
    add(
        "--input",
        type=Path,
        required=True,
        help="image (PNG, JPEG, WebP; at least 16x16 pixels) or folder of images",
    )
    add("--output", type=Path, required=True, help="folder for the results, <stem>.png each; made if missing")
    add(
        "--version", choices=sorted(PRESETS), default="tiny", help="preset of networks (default: %(default)s)"
    )
    add(
        "--weights",
        type=Path,
        help="folder of rm, vae, unet and control .safetensors (default: the shipped ones)",
    )
    add("--upscale", type=positive, default=4.0, help="output side / input side (default: %(default)g)")
    add("--steps", type=int, help="sampling steps, 1 to 1000 (default: the preset's)")
    add("--start", type=float, help="share of the noise schedule to start from: 1 is pure noise, less keeps more of "
        "stage 1 (default: the preset's)")  # fmt: skip
    add("--guidance-scale", type=float, help="pull toward stage 1 in flat regions: 0 is off, more is more faithful and "
        "smoother (default: the preset's)")  # fmt: skip
    add("--guidance-loss", choices=get_args(Loss), help="w_mse: as the reference; paper: weight inside the norm; mse: "
        "unweighted (default: w_mse)")  # fmt: skip
    add("--strength", type=float, help="factor on the control signals (default: 1)")
    add("--seed", type=int, default=0, help="seed of the noise: the same seed repeats a result (default: 0)")
    add("--compare", action="store_true", help="also write <stem>_compare.png: input | stage 1 | result")
    add("--save-stages", action="store_true", help="also write the stage-1 image as <stem>_stage1.png")
    return parser.parse_args(argv)


def positive(text: str) -> float:
    """Read a finite number above 0."""
    value = float(text)
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} given, allowed are finite numbers above 0")
    return value


def options_from(args: argparse.Namespace) -> Options:
    """Return the preset's operating point with what the command line changes."""
    given = {f.name: getattr(args, f.name, None) for f in dataclasses.fields(Options)}
    return dataclasses.replace(
        DEFAULTS.get(args.version, Options()), **{k: v for k, v in given.items() if v is not None}
    )


def find_inputs(path: Path, output: Path) -> list[Path]:
    """Return the image files that `path` names.

    Raises:
        ImageFileError: nothing is there, or results would overwrite inputs or each other.
    """
    if not path.exists():
        raise ImageFileError(
            f"{path}: no such file or folder; give an image or a folder of images as --input"
        )
    inputs = list_images(path) if path.is_dir() else [path]
    if output.resolve() == inputs[0].parent.resolve():
        raise ImageFileError(
            f"{output}: is the folder of the inputs; give another --output, or originals may be lost"
        )
    twins = [name for name, count in Counter(p.stem for p in inputs).items() if count > 1]
    if twins:
        raise ImageFileError(
            f"{path}: several images named {', '.join(twins)}; rename them, results are <stem>.png"
        )
    return inputs


def write(output: Path, stem: str, restored: Restored, args: argparse.Namespace) -> None:
    """Write one result and what was asked for beside it."""
    write_png(output / f"{stem}.png", restored.image)
    if args.save_stages:
        write_png(output / f"{stem}_stage1.png", restored.stage1)
    if args.compare:
        panels = np.concatenate([restored.upscaled, restored.stage1, restored.image], axis=1)
        write_png(output / f"{stem}_compare.png", panels)


def run(args: argparse.Namespace) -> int:
    """Restore every input; return the number that failed."""
    options, inputs = options_from(args), find_inputs(args.input, args.output)
    restorer = Restorer.load(args.version, args.weights)
    args.output.mkdir(parents=True, exist_ok=True)
    failed = 0
    bar = tqdm(inputs, "restoring", unit="image", disable=None)
    for index, path in enumerate(bar):
        begin = time.perf_counter()
        try:
            restored = restorer.restore_one(read_image(path), args.upscale, options, index)
            write(args.output, path.stem, restored, args)
        except (ImageFileError, ValueError, OSError) as error:
            failed += 1
            tqdm.write(f"sample.py: {error}", file=sys.stderr)
            continue
        height, width = restored.image.shape[:2]
        tqdm.write(f"{args.output / path.stem}.png  {width}x{height}  {time.perf_counter() - begin:.1f} s")
    print(f"{len(inputs) - failed} restored, {failed} failed")
    return failed


def main() -> None:
    """Run the command line; the exit code is 1 if any input failed."""
    args = parse()
    jax.config.update("jax_compilation_cache_dir", str(CACHE))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    try:
        sys.exit(1 if run(args) else 0)
    except (ImageFileError, ValueError, OSError) as error:
        sys.exit(f"sample.py: {error}")


if __name__ == "__main__":
    main()
