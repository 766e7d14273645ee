"""What a configuration trains on: diffbir data preview --config bsr --output grid.png

Writes pairs of target (left) and input (right) as a picture and prints what was drawn for each.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffbir_jax.console.config_flags import add_config_flags, parse, read_config
from diffbir_jax.console.errors import EXPECTED, one_line
from diffbir_jax.console.numbers import count, whole
from diffbir_jax.console.parser import INTERRUPTED, Parser
from diffbir_jax.console.section import Section
from diffbir_jax.data.example import DataError
from diffbir_jax.files.writing import check_length

if TYPE_CHECKING:
    from diffbir_jax.data.setup import Data

PROG = "diffbir data preview"


def make_parser() -> Parser:
    """Return the parser of the command line, all but the settings of the configuration."""
    parser = Parser(
        prog=PROG,
        usage=f"{PROG} --config NAME[:VARIANT]|FILE [--output FILE] [--photos DIR] [--config.KEY=VALUE ...]",
        description="Show what a configuration trains on: pairs of target (left) and input (right) as a picture, and "
        "what was drawn for each.",
        epilog=f"Exit code: 0, 1 if the data cannot be used, 2 for a bad flag, {INTERRUPTED} if interrupted.",
        add_help=False,
    )
    add_config_flags(parser)
    add = parser.add_argument
    add(
        "-o",
        "--output",
        "--out",
        default="grid.png",
        metavar="FILE",
        help="picture to write (default: %(default)s)",
    )
    add("--number", type=count, default=8, metavar="N", help="pairs in the picture (default: %(default)s)")
    first = "place of the first one in the order of training (default: %(default)s)"
    add("--first", type=whole, default=0, metavar="N", help=first)
    add(
        "--stats",
        action="store_true",
        help="also time examples, one by one and through the loader (default: off)",
    )
    add("--timed", type=count, default=64, metavar="N", help="how many --stats times (default: %(default)s)")
    held_out = "show the examples held out of training instead (default: off)"
    add("--held-out", "--held_out", action="store_true", help=held_out)
    return parser


def shown(data: "Data", photos: bool) -> "Data":
    """Return the settings of the data, with random crops if a configuration for ready crops is shown on photos.

    Raises:
        DataError: the configuration has no data source.
    """
    if "source" not in data:
        raise DataError(
            "this configuration cuts photos by itself (data.folder) and has no data.source to show; give one that has, "
            "such as --config bsr"
        )
    if not photos or data["crop"]["kind"] != "none":
        return data
    print(
        f"{PROG}: data.crop.kind is none, for images of one size; shown with random, as photos have any size. To train "
        "on them give --config.data.crop.kind=random too.",
        file=sys.stderr,
    )
    return {**data, "crop": {**data["crop"], "kind": "random"}}


def run(config: Section, args: argparse.Namespace) -> None:
    """Show what `config` trains on, as the flags ask.

    Raises:
        DataError: the data cannot be used.
        ValueError: a setting is not allowed, or the name of the output is too long.
    """
    # Here, as Grain and JAX take seconds to import.
    from diffbir_jax.data.preview.pairs import show, time_loader, time_stages
    from diffbir_jax.data.setup import make_loaders

    output = Path(args.output).expanduser()
    check_length(output, "give a shorter --output")
    train, held_out = make_loaders(shown(config["data"], bool(args.photos or args.pairs)), config["seed"])
    loader = held_out if args.held_out else train
    show(loader.items, args.first, args.number, output)
    if args.stats:
        time_stages(loader.items, args.timed)
        time_loader(loader, args.timed)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; bad input ends in one line."""
    parser = make_parser()
    args, words = parse(parser, argv)
    if Path(args.output).suffix.lower() != ".png":
        parser.refuse(f"--output is {args.output}; give a .png file")
    config = read_config(parser, args, words)
    try:
        run(config.to_dict(), args)
    except EXPECTED as error:
        sys.exit(f"{PROG}: {one_line(error)}")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
