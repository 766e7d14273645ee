"""The flags of `diffbir evaluate`; JAX, which the metrics need, is imported only to name or read them."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffbir_jax.console.errors import UserError
from diffbir_jax.console.numbers import whole
from diffbir_jax.console.parser import INTERRUPTED, Parser
from diffbir_jax.evaluation.suites.flags import SUITE_ONLY, add_suite_flags
from diffbir_jax.files.places import given_path
from diffbir_jax.restoration.flags import add_pixel_limit

if TYPE_CHECKING:
    from diffbir_jax.evaluation.metric import Metric

# What is evaluated, one at a time.
MODES = ("pred", "suite", "runs")
# Flags of `diffbir restore` that one may expect here.
ELSEWHERE = {
    "--compare": "to compare runs give --runs RUN RUN",
    "--input": "give the folder of results as --pred DIR",
    "--report": "it is written unless --no-page is given",
}
# The modes of each flag that does not fit all modes.
FITTING = {
    **dict.fromkeys(("gt", "lq", "crop_border", "name", "max_pixels", "crop_to_common"), ("pred",)),
    **dict.fromkeys(("metrics", "metric_weights"), ("pred", "suite")),
    **dict.fromkeys(SUITE_ONLY, ("suite",)),
}


class EvaluateParser(Parser):
    """A parser that knows which flags have other names here."""

    def explain(self, word: str) -> str:
        """Return what to type instead of a word."""
        name = word.partition("=")[0]
        return f"no option {name}; {ELSEWHERE[name]}" if name in ELSEWHERE else super().explain(word)


def make_parser() -> Parser:
    """Return the parser of the command line."""
    parser = EvaluateParser(
        prog="diffbir evaluate",
        description="Score restored images with metrics, and compare results. The protocol is recorded.",
        epilog="The same command continues an interrupted evaluation. Exit code: 0 if every metric of --metrics (and "
        "every method of --methods) has a score, 1 if one has no score or if images do not match, 2 for a wrong flag, "
        f"{INTERRUPTED} after Ctrl-C.",
    )
    add_folder_flags(parser.add_argument_group("images"))
    add_scoring_flags(parser.add_argument_group("scores"))
    add_suite_flags(parser.add_argument_group("suites"))
    add_compare_flags(parser.add_argument_group("comparison"))
    add_output_flags(parser.add_argument_group("files out"))
    return parser


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; exit with 2 and one line if it is invalid."""
    parser = make_parser()
    args = parser.parse_args(argv)
    check_mode(parser, args)
    check_folders(parser, args)
    return args


def check_folders(parser: Parser, args: argparse.Namespace) -> None:
    """Exit with one line if a folder that is read is not there."""
    named = {
        "pred": args.pred or (),
        "gt": [args.gt],
        "lq": [args.lq],
        "runs": args.runs or (),
        "data": [args.data],
    }
    for flag, folders in named.items():
        for folder in folders:
            check_folder(parser, flag, folder)


def check_folder(parser: Parser, flag: str, folder: Path | None) -> None:
    """Exit with one line if the folder of a flag is given and not there."""
    if folder is not None and not folder.is_dir():
        parser.refuse(f"{folder}: no such folder; give one as --{flag} DIR")


def check_mode(parser: Parser, args: argparse.Namespace) -> None:
    """Exit with one line unless there is exactly one mode and every flag fits it."""
    modes = [mode for mode in MODES if getattr(args, mode)]
    if len(modes) != 1:
        given = " and ".join(f"--{mode}" for mode in modes) or "none"
        parser.error(f"give one of {', '.join(f'--{mode}' for mode in MODES)}, not {given}")
    for flag, fitting in FITTING.items():
        # A flag that has no effect is an error, so that nobody relies on it.
        if getattr(args, flag) is not None and modes[0] not in fitting:
            wanted = " or ".join(f"--{mode}" for mode in fitting)
            parser.error(f"--{flag.replace('_', '-')} goes with {wanted}, not with --{modes[0]}")
    if not args.runs and args.output is None:
        parser.error("--output is missing: give the folder for the result, -o DIR")


def add_folder_flags(group: argparse._ArgumentGroup) -> None:
    """Declare the flags for images."""
    add = group.add_argument
    pred = (
        "folder of results, with all its subfolders; or several folders with results of the same images, one per seed: "
        "the table then has means over seeds, and deviations over seeds"
    )
    add("--pred", type=given_path, nargs="+", metavar="DIR", help=pred)
    gt = (
        "folder of ground truths with the names of the results; suffixes may differ (default: none, if no metric "
        "needs one)"
    )
    add("--gt", type=given_path, metavar="DIR", help=gt)
    lq = "folder of the degraded inputs with the same names, for the report (default: none)"
    add("--lq", type=given_path, metavar="DIR", help=lq)
    add_pixel_limit(group, default=None)
    common = (
        "if sides of a result and its ground truth differ by one pixel, cut both to the common size, at the right and "
        "at the bottom (default: this is an error)"
    )
    # None and not False, so that the flag is known to be given.
    add("--crop-to-common", action="store_true", default=None, help=common)


def add_scoring_flags(group: argparse._ArgumentGroup) -> None:
    """Declare the flags for scoring."""
    add = group.add_argument

    def metrics() -> str:
        from diffbir_jax.evaluation.registry import GROUPS, METRICS

        return (
            f"metrics or groups, separated by commas: {', '.join(METRICS)}; groups: {', '.join(GROUPS)} "
            "(default: fast; without --gt only its metrics that need no ground truth)"
        )

    add("--metrics", type=metric_names, metavar="NAME,...", help=metrics)  # pyright: ignore[reportArgumentType]
    crop = "leave out N pixels along every edge in PSNR and SSIM; often the upscaling factor (default: 0)"
    add("--crop-border", type=whole, metavar="N", help=crop)
    add_metric_weights_flag(group)
    name = "title of the row in tables (default: name of the folder; for several folders, of the first one's parent)"
    add("--name", metavar="TEXT", help=name)


def add_metric_weights_flag(group: argparse._ArgumentGroup) -> None:
    """Declare the flag for the networks of metrics."""
    weights = "folder with the weights of learned metrics (default: none)"
    group.add_argument("--metric-weights", type=given_path, metavar="DIR", help=weights)


def add_compare_flags(group: argparse._ArgumentGroup) -> None:
    """Declare the flags for comparing results."""
    runs = (
        "outputs of diffbir evaluate for the same images; compare each with the first: differences with bootstrap "
        "intervals, Wilcoxon's signed-rank test and the paired t-test, corrected for the number of tests"
    )
    group.add_argument("--runs", type=given_path, nargs="+", metavar="RUN", help=runs)


def add_output_flags(
    group: argparse._ArgumentGroup,
    needed: str = "required with --pred and --suite; --runs alone only prints",
) -> None:
    """Declare the flags for outputs; `needed` says when --output is required."""
    output = (
        "folder for result.json, images.csv, table.md, table.tex, report.html and the cache of scores; it is created "
        f"if missing ({needed})"
    )
    group.add_argument("-o", "--output", type=given_path, metavar="DIR", help=output)
    intervals = "write the 95 %% bootstrap interval of each mean into the tables (default: on)"
    group.add_argument("--intervals", action=argparse.BooleanOptionalAction, default=True, help=intervals)
    page = "write report.html, a page with the images (default: on)"
    group.add_argument("--page", action=argparse.BooleanOptionalAction, default=True, help=page)


def metric_names(text: str) -> "tuple[Metric, ...]":
    """Read names separated by commas."""
    from diffbir_jax.evaluation.registry import select

    try:
        return select([name.strip() for name in text.split(",") if name.strip()])
    # argparse shows only its own error type as one line.
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
