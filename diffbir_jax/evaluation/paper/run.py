"""`diffbir reproduce TABLE` from its flags to its exit code."""

import argparse
import sys
from pathlib import Path

from diffbir_jax.console.plain import plain
from diffbir_jax.evaluation.paper import needs, report
from diffbir_jax.evaluation.paper.table import Table
from diffbir_jax.evaluation.registry import select
from diffbir_jax.evaluation.result import Result
from diffbir_jax.evaluation.run import locate, publish
from diffbir_jax.evaluation.suites.methods import Networks
from diffbir_jax.evaluation.suites.run import SuiteRun, find_jobs, run_suite
from diffbir_jax.evaluation.suites.spec import read_suite


def run(args: argparse.Namespace) -> int:
    """Do the task of a command line that `flags.parse` has read, with a table; return the exit code.

    Raises:
        ImageFileError, ValueError, FileNotFoundError: images or results do not match or cannot be read.
    """
    table: Table = args.table
    if not check(table, needs.Places(args.data, args.weights, args.metric_weights)):
        return 1
    if args.check:
        return 0
    results = measure(table, args)
    lines = [
        report.make_line(number, results[f"{number.suite}/{number.dataset}"]) for number in table.numbers
    ]
    print(report.write(table, lines, results, args.output), end="", flush=True)
    shown = plain(args.output)
    print(f"diffbir reproduce: {shown} has reproduce.md and reproduce.json", file=sys.stderr)
    return int(any(line.ours is None for line in lines))


def check(table: Table, places: needs.Places) -> bool:
    """Print what a table needs, and list what is missing; whether all is here."""
    found = needs.find_needs(table, places)
    print(f"{table.name}: {table.title}\n\n{needs.told(found)}\n", flush=True)
    # Metrics are loaded only when their files are here: it takes seconds, and finds damaged files.
    lacking = needs.missing(found) or needs.missing(needs.unusable(table, places))
    if lacking:
        print(f"diffbir reproduce: nothing was run, because these are missing:\n{lacking}", file=sys.stderr)
    return not lacking


def measure(table: Table, args: argparse.Namespace) -> dict[str, Result]:
    """Run the suites of a table, and write their own tables and pages; results by suite and data set."""
    found: dict[str, Result] = {}
    # All checks of all suites come first: a later one must not fail after hours.
    runs = [suite_run(table, name, args) for name in table.suites]
    for each in runs:
        find_jobs(each)
    for each in runs:
        for folder, results in run_suite(each).items():
            publish([locate(result, folder / name) for name, result in results.items()], folder, args)
            found[f"{each.suite.name}/{folder.name}"] = results[table.method]
    return found


def suite_run(table: Table, name: str, args: argparse.Namespace) -> SuiteRun:
    """Return the run of one of a table's suites: only the row, the data sets and the metrics of the table."""
    suite, numbers = read_suite(name), table.of(name)
    return SuiteRun(
        suite,
        Networks(table.version, suite.task, args.weights),
        Path(args.output) / name,
        None if suite.shipped else args.data,
        tuple(dict.fromkeys(number.dataset for number in numbers)),
        (table.method,),
        metrics=select(number.metric for number in numbers),
        weights=args.metric_weights,
    )
