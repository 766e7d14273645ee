"""Show how photos were degraded and what restore --auto would do: diffbir inspect PHOTO. See --help."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from diffbir_jax.console.errors import EXPECTED, UserError, one_line
from diffbir_jax.console.numbers import positive
from diffbir_jax.console.parser import Parser
from diffbir_jax.console.plain import plain
from diffbir_jax.console.progress import waiting
from diffbir_jax.console.tables import aligned
from diffbir_jax.files.places import given_path, json_path
from diffbir_jax.files.writing import replace_file
from diffbir_jax.restoration.flags import add_pixel_limit

HEAD = ("photo", "pixels", "blur", "noise", "JPEG", "scale")
STANDARD = Path("-")
FORMATS = ".2f", ".1f", ".0f", ".2f"


def make_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(
        prog="diffbir inspect",
        usage="diffbir inspect PHOTO|FOLDER ... [options]",
        description="Estimate how photos were degraded: blur (standard deviation in pixels), noise (standard deviation "
        "in levels of 255), JPEG quality (100: no trace of JPEG) and scale (by how much a photo was reduced before it "
        "was enlarged to its size; 1: not at all), each with the error to expect. Nothing is written.",
        epilog="Exit code: 0, 1 if a photo cannot be read or is smaller than 64x64 pixels, 2 for a wrong flag.",
    )
    add = parser.add_argument
    add("paths", type=given_path, nargs="*", metavar="PHOTO", help="photos, or folders of photos (required)")
    about = "enlargement of each side that restore --auto is asked for"
    add("--upscale", type=positive, default=4.0, metavar="X", help=f"{about} (default: %(default)g)")
    machines = (
        "also write the results for machines, a list with an object for each photo, to a .json file; -: print that "
        "and no table (default: none)"
    )
    add("--json", type=json_target, metavar="FILE|-", help=machines)
    add_pixel_limit(parser)
    return parser


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if not args.paths:
        parser.error("nothing to inspect: name a photo or a folder")
    return args


def json_target(text: str) -> Path:
    """Read the name of a .json file, or "-"."""
    return STANDARD if text == str(STANDARD) else json_path(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    args = parse(argv)
    # JAX takes seconds to import: not before the flags are read.
    with waiting("inspecting", "loading"):
        from diffbir_jax.console.process import configure

        configure("fp32")
    found, problems = listed(args.paths)
    try:
        check_target(args.json, found)
    except UserError as error:
        make_parser().refuse(error)
    records = []
    for path in found:
        try:
            records.append(record(path, args.upscale, args.max_pixels))
        except (*EXPECTED, MemoryError) as error:
            problems += 1
            complain(path, error)
    show(records, args.json, args.upscale)
    return int(problems > 0)


def complain(path: Path, error: BaseException) -> None:
    """Print a line about a photo or a folder; the others are still read."""
    told = one_line(error) if str(path) in str(error) else f"{path}: {one_line(error)}"
    print(f"diffbir inspect: {plain(told)}", file=sys.stderr)


def check_target(target: Path | None, photos: Sequence[Path]) -> None:
    """Raise UserError if the results would replace a photo."""
    if target is None or not target.is_file():
        return
    if any(os.path.samefile(target, photo) for photo in photos if photo.is_file()):
        raise UserError(
            f"{target}: is one of the photos, which --json would replace; give another .json file"
        )


def show(records: Sequence[dict], target: Path | None, upscale: float) -> None:
    """Print the table, and write the records to a file; or print them alone, for "-"."""
    text = json.dumps(records, indent=1) + "\n"
    if target == STANDARD:
        print(text, end="")
        return
    if records:
        head = (*HEAD, f"restore --auto --upscale {upscale:g}")
        print(aligned([head, *map(row, records)], right=(1, 2, 3, 4, 5)))
    if target is not None:
        replace_file(target, text.encode())


def listed(paths: Sequence[Path]) -> tuple[list[Path], int]:
    """Return files and the photos of folders, each once, and how many folders have none; these are told."""
    from diffbir_jax.imaging.listing import list_folder

    found: dict[Path, None] = {}
    problems = 0
    for path in paths:
        try:
            found |= dict.fromkeys(list_folder(path).images if path.is_dir() else [path])
        except EXPECTED as error:
            problems += 1
            complain(path, error)
    return [*found], problems


def record(path: Path, upscale: float, max_pixels: int) -> dict[str, object]:
    """Estimate a photo's degradation and what to do; errors as in `read_photo` and `estimate`."""
    from diffbir_jax.imaging.reading import read_photo
    from diffbir_jax.restoration.auto import choose
    from diffbir_jax.restoration.estimate import estimate

    pixels = read_photo(path, max_pixels).pixels
    found = estimate(pixels)
    choice = choose(found, upscale)
    return {
        "photo": str(path),
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        **found.as_record(),
        "auto": {
            "upscale": upscale,
            "alone": choice.alone,
            "options": choice.options,
            "why": choice.why,
            "text": str(choice),
        },
    }


def row(entry: dict) -> tuple[str, ...]:
    """Return the cells of a photo's line: estimates with their expected errors."""
    from diffbir_jax.models.degradation import QUANTITIES

    cells = (
        f"{entry[name]:{form}} ±{error:{form}}"
        for name, error, form in zip(QUANTITIES, entry["errors"], FORMATS)
    )
    return entry["photo"], f"{entry['width']}x{entry['height']}", *cells, entry["auto"]["text"]
