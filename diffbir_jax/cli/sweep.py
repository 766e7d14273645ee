"""Train every combination of some settings: diffbir sweep --workdir DIR --grid 'KEY=VALUE,VALUE' --config NAME."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffbir_jax.console import configurations
from diffbir_jax.console.config_flags import add_config_flags, parse
from diffbir_jax.console.errors import EXPECTED
from diffbir_jax.console.extras import require
from diffbir_jax.console.parser import INTERRUPTED, Parser

if TYPE_CHECKING:
    from diffbir_jax.training.config import Config

PROG = "diffbir sweep"
# A run is a process of its own, which the installed package starts without a checkout.
TRAIN = (sys.executable, "-m", "diffbir_jax", "train")


def make_parser() -> Parser:
    """Return the parser of the command line, all but the settings of the configuration."""
    parser = Parser(
        prog=PROG,
        usage=f"{PROG} --workdir DIR --grid 'KEY=VALUE,VALUE ...' --config NAME [flags of diffbir train]",
        description="Train every combination of some settings, one after another; the same command continues a sweep "
        "that was stopped. Each run has a folder in the work folder. results.csv and results.md there have a row per "
        "run with the last and the best validation metrics.",
        epilog=f"Exit code: 0, 1 if a run failed, 2 for a bad flag, setting or folder, {INTERRUPTED} if interrupted.",
        add_help=False,
    )
    add_config_flags(parser)
    grid = "combinations: 'train.lr=1e-3,1e-4 data.batch_size=4,8', keys as in the configuration (required)"
    parser.add_argument("--grid", metavar="TEXT", help=grid)
    parser.add_argument("--workdir", metavar="DIR", help="folder of the runs and the tables (required)")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; bad input ends with one line before any training."""
    parser = make_parser()
    args, words = parse(parser, argv)
    for name in ("grid", "workdir"):
        if getattr(args, name) is None:
            parser.refuse(f"--{name} is missing; see {PROG} --help")
    workdir = Path(args.workdir).expanduser().absolute()
    photos = ["--photos", args.photos] if args.photos else ["--pairs", *args.pairs] if args.pairs else []
    arguments = ["--config", args.config, *photos, *words]
    try:
        require("train")
        from diffbir_jax.training.grid import parse_grid
        from diffbir_jax.training.settings import check_config, check_photos

        grid = parse_grid(args.grid)
        for config in [read(args, words, overrides) for overrides in grid]:
            check_config(config)
            check_photos(config)
    except EXPECTED as error:
        parser.refuse(error)
    run(parser, grid, workdir, arguments)


def read(args: argparse.Namespace, words: Sequence[str], overrides: dict[str, str]) -> "Config":
    """Return the configuration of a run, so that a bad run is found before the first run starts."""
    settings = [f"--config.{key}={value}" for key, value in overrides.items()]
    return configurations.read(args.config, [*words, *settings], args.photos, args.pairs)


def run(parser: Parser, grid: Sequence[dict[str, str]], workdir: Path, arguments: Sequence[str]) -> None:
    """Train all runs, print the table and exit."""
    from diffbir_jax.training.sweep import FAILED, make_runs, sweep

    try:
        runs = make_runs(grid, workdir, arguments)
        sweep(runs, workdir, [*TRAIN, *arguments])
    except EXPECTED as error:
        parser.refuse(error)
    except KeyboardInterrupt:
        print(f"{PROG}: stopped; run the same command again to go on.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    print((workdir / "results.md").read_text("utf-8"), end="")
    sys.exit(any(run.record["state"] == FAILED for run in runs))
