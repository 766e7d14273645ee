"""The flags of evaluate.py."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from diffbir_jax.console.errors import UserError
from diffbir_jax.console.parser import INTERRUPTED, Parser
from diffbir_jax.evaluation.metric import Metric
from diffbir_jax.evaluation.registry import GROUPS, METRICS, select
from diffbir_jax.evaluation.suites.flags import SUITE_ONLY, add_suite_flags

# The modes of evaluate.py, one at a time.
MODES = ("pred", "suite", "compare")
# The modes of each flag that does not fit all modes.
FITTING = {
    **dict.fromkeys(("gt", "lq", "crop_border", "name"), ("pred",)),
    **dict.fromkeys(("metrics", "metric_weights"), ("pred", "suite")),
    **dict.fromkeys(SUITE_ONLY, ("suite",)),
}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; exit with 2 and one line if it is invalid."""
    parser = Parser(
        prog="evaluate.py",
        description="Score restored images by metrics with a recorded protocol, and compare results.",
        epilog="The same command continues an interrupted evaluation. Exit code: 0 if every metric has a score, 1 "
        "if one has none (with --suite, only if methods, metrics or weights of Real-ESRGAN were named) or images do "
        f"not match, 2 for a bad flag, {INTERRUPTED} if interrupted.",
    )
    add_folder_flags(parser.add_argument_group("images"))
    add_scoring_flags(parser.add_argument_group("scores"))
    add_suite_flags(parser.add_argument_group("suites"))
    add_compare_flags(parser.add_argument_group("comparison"))
    add_output_flags(parser.add_argument_group("files out"))
    args = parser.parse_args(argv)
    check_mode(parser, args)
    return args


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
    if not args.compare and args.output is None:
        parser.error("--output is missing: give the folder for the result")


def add_folder_flags(group: argparse._ArgumentGroup) -> None:
    """Declare the flags for images."""
    add = group.add_argument
    pred = (
        "folder of results, with all its subfolders; or several folders of results for the same images, one per seed: "
        "then scores are means over seeds, and their deviations over seeds are further columns"
    )
    add("--pred", type=Path, nargs="+", metavar="DIR", help=pred)
    gt = (
        "folder of ground truths, with the names of the results but any suffix (default: none, for metrics that need "
        "none)"
    )
    add("--gt", type=Path, metavar="DIR", help=gt)
    lq = "folder of the images that were restored, with the same names, for the report (default: none)"
    add("--lq", type=Path, metavar="DIR", help=lq)


def add_scoring_flags(group: argparse._ArgumentGroup) -> None:
    """Declare the flags for scoring."""
    add = group.add_argument
    metrics = (
        f"metrics or groups of them, with commas: {', '.join(METRICS)}; groups: {', '.join(GROUPS)} "
        "(default: those of fast that --gt or its absence allows)"
    )
    add("--metrics", type=metric_names, metavar="NAME,...", help=metrics)
    crop = "pixels left out along every edge in PSNR and SSIM; often the upscaling factor (default: 0)"
    add("--crop-border", type=pixels, metavar="N", help=crop)
    weights = "folder of the networks of learned metrics (default: none)"
    add("--metric-weights", type=Path, metavar="DIR", help=weights)
    name = "the row's title in tables (default: the folder's name; for several, the first one's parent)"
    add("--name", metavar="TEXT", help=name)


def add_compare_flags(group: argparse._ArgumentGroup) -> None:
    """Declare the flags for comparing results."""
    runs = (
        "folders that evaluate.py wrote, for the same images: differences to the first, with bootstrap intervals, "
        "Wilcoxon's signed-rank test and the paired t-test, corrected for their number"
    )
    group.add_argument("--compare", type=Path, nargs="+", metavar="RUN", help=runs)


def add_output_flags(group: argparse._ArgumentGroup) -> None:
    """Declare the flags for outputs."""
    output = (
        "folder for result.json, images.csv, table.md, table.tex, report.html and the cache of scores; made if missing "
        "(required with --pred and --suite; by default, --compare only prints)"
    )
    group.add_argument("--output", type=Path, metavar="DIR", help=output)
    intervals = "write the 95 %% bootstrap interval of each mean into tables (default: on)"
    group.add_argument("--intervals", action=argparse.BooleanOptionalAction, default=True, help=intervals)
    report = "write report.html, a page that shows the images (default: on)"
    group.add_argument("--report", action=argparse.BooleanOptionalAction, default=True, help=report)


def metric_names(text: str) -> tuple[Metric, ...]:
    """Read names separated by commas."""
    try:
        return select([name.strip() for name in text.split(",") if name.strip()])
    # argparse shows only its own error type as one line.
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def pixels(text: str) -> int:
    """Read a whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} given, allowed are whole numbers from 0")
    return int(text)
