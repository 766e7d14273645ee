"""`diffbir evaluate` from its flags to its exit code."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from diffbir_jax.console.errors import UserError
from diffbir_jax.console.plain import plain
from diffbir_jax.evaluation.compare import compare, comparison_csv, comparison_markdown, read_runs, with_files
from diffbir_jax.evaluation.evaluate import Evaluation, evaluate
from diffbir_jax.evaluation.metric import Metric, Setup
from diffbir_jax.evaluation.registry import select
from diffbir_jax.evaluation.report import write_report
from diffbir_jax.evaluation.result import Result
from diffbir_jax.evaluation.suites.flags import suite_run
from diffbir_jax.evaluation.suites.run import run_suite
from diffbir_jax.evaluation.tables import make_tables, markdown, write_tables
from diffbir_jax.files.folders import make_folder
from diffbir_jax.files.writing import replace_file
from diffbir_jax.imaging.photo import MAX_PIXELS


def run(args: argparse.Namespace) -> int:
    """Do the task of a command line that `flags.parse` has read; return the exit code.

    Raises:
        ImageFileError, ValueError, FileNotFoundError: images or results do not match or cannot be read.
    """
    if args.runs:
        return run_compare(args)
    return run_suites(args) if args.suite else run_folders(args)


def run_folders(args: argparse.Namespace) -> int:
    """Evaluate folders of results, and print the table."""
    setup = Setup(args.crop_border or 0, args.metric_weights)
    metrics = args.metrics or default_metrics(args.gt is not None)
    if len(args.pred) > 1:
        # Several seeds allow a deviation of pixels, so it is a column even if nobody asks.
        metrics = tuple(dict.fromkeys((*metrics, *select(["lstd"]))))
    name = args.name or default_name(args.pred)
    reading = {"max_pixels": args.max_pixels or MAX_PIXELS, "crop_to_common": bool(args.crop_to_common)}
    result = evaluate(Evaluation(name, args.pred, args.output, metrics, args.gt, args.lq, setup, **reading))
    print(publish([result], args.output, args), end="", flush=True)
    tell_place(args.output, args.page)
    # The exit code tells scripts that a requested score is missing; by default some need larger images.
    missing = [metric for metric in metrics if metric.name not in result.summary]
    return int(bool(missing) and (bool(args.metrics) or not result.summary))


def run_suites(args: argparse.Namespace) -> int:
    """Run a suite, and print the tables. A method or metric that cannot run is a failure only if the flags name it."""
    lacking, asked = False, args.methods or args.metrics or args.realesrgan
    for folder, results in run_suite(suite_run(args)).items():
        located = [locate(result, folder / name) for name, result in results.items()]
        print(f"{plain(folder.name)}\n\n{publish(located, folder, args)}", flush=True)
        tell_place(folder, args.page)
        lacking |= any(
            result.unavailable or result.columns.keys() - result.summary.keys() for result in located
        )
    return int(lacking and bool(asked))


def run_compare(args: argparse.Namespace) -> int:
    """Compare results, print the tables, and write them if there is an output folder."""
    results, output = read_runs(args.runs), args.output
    comparison = compare(results)
    text = comparison_markdown(comparison)
    if output is None:
        print(*map(markdown, make_tables(results, args.intervals)), text, sep="\n", end="")
        return 0
    # Tables of a comparison would replace those of the evaluation in that folder.
    if (output / "result.json").exists():
        raise UserError(f"{output} holds a result of its own; give another --output")
    make_folder(output)
    replace_file(output / "compare.md", text.encode("utf-8", "backslashreplace"))
    replace_file(output / "compare.csv", comparison_csv(comparison).encode("utf-8", "backslashreplace"))
    print(f"{publish(results, output, args)}\n{text}", end="")
    return 0


def publish(results: Sequence[Result], folder: Path, args: argparse.Namespace) -> str:
    """Write tables and report of results into `folder`, and return the table.

    Args:
        results: a row each; files are absolute or relative to `folder`.
        folder: must exist.
        args: `intervals`: whether tables have them; `page`: whether to write report.html.
    """
    text = write_tables(results, folder, args.intervals)
    if args.page:
        write_report([locate(result, folder) for result in results if result.images], folder)
    return text


def tell_place(folder: Path, page: bool) -> None:
    """Say where the files of an evaluation are; beside the table, which other programs may read."""
    shown = "report.html there shows the images" if page else "table.md there is the table"
    print(f"diffbir evaluate: {plain(folder)} has the scores; {shown}", file=sys.stderr)


def default_metrics(truths: bool) -> tuple[Metric, ...]:
    """Return the fast metrics; without ground truths only those that need none."""
    return tuple(metric for metric in select(["fast"]) if truths or metric.kind == "single")


def default_name(preds: Sequence[Path]) -> str:
    """Return the name of the folder; for several seeds, that of the first one's parent."""
    first = preds[0].resolve()
    return first.name if len(preds) == 1 else first.parent.name


def locate(result: Result, folder: Path) -> Result:
    """Return a result of a folder with the absolute paths of its images."""
    return dataclasses.replace(result, images=tuple(with_files(image, folder) for image in result.images))
