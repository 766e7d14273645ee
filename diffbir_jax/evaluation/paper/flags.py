"""The flags of `diffbir reproduce`; those that `diffbir evaluate` has, too, are declared there."""

import argparse
from collections.abc import Sequence

from diffbir_jax.console.errors import UserError
from diffbir_jax.console.parser import INTERRUPTED, Parser
from diffbir_jax.evaluation.flags import add_metric_weights_flag, add_output_flags, check_folder
from diffbir_jax.evaluation.paper.table import read_table, table_names
from diffbir_jax.evaluation.suites.flags import add_place_flags

# Flags that have no effect without a table.
TABLE_ONLY = ("check", "output", "weights", "data", "datasets", "metric_weights")


def make_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(
        prog="diffbir reproduce",
        description="Run the suites behind a table of the paper, and show its numbers beside ours. Without TABLE: list "
        "the tables.",
        epilog="The same command continues an interrupted run. Exit code: 0 if every number was measured, 1 if "
        f"something that it needs is missing or a number has no score, 2 for a wrong flag, {INTERRUPTED} after Ctrl-C.",
    )
    parser.add_argument("table", nargs="?", choices=table_names(), metavar="TABLE", help="name of a table")
    check = "only say what the table needs and what is missing; exit code 1 if anything is"
    parser.add_argument("--check", action="store_true", help=check)
    inputs = parser.add_argument_group("files in")
    add_place_flags(inputs)
    add_metric_weights_flag(inputs)
    add_output_flags(parser.add_argument_group("files out"), "required unless --check is given")
    return parser


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line, `table` as a `Table` or None; exit with 2 and one line if it is invalid."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.table is None:
        _check_list(parser, args)
        return args
    if args.output is None and not args.check:
        parser.error("--output is missing: give the folder for the results, -o DIR")
    check_folder(parser, "data", args.data)
    table = read_table(args.table)
    try:
        args.table = table if args.datasets is None else table.only(args.datasets)
    except UserError as error:
        parser.refuse(error)
    return args


def _check_list(parser: Parser, args: argparse.Namespace) -> None:
    """Exit with one line if flags are given that need a table."""
    for flag in TABLE_ONLY:
        if getattr(args, flag):
            parser.error(f"--{flag.replace('_', '-')} needs a table: name one of {', '.join(table_names())}")
