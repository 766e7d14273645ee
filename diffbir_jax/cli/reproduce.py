"""Run a table of the paper, and compare its numbers: diffbir reproduce TABLE --output DIR. See --help."""

import io
import sys
from collections.abc import Sequence

from diffbir_jax.console.parser import INTERRUPTED
from diffbir_jax.console.progress import waiting
from diffbir_jax.console.tables import aligned
from diffbir_jax.evaluation.paper.flags import make_parser, parse
from diffbir_jax.evaluation.paper.table import read_table, table_names

__all__ = ["main", "make_parser"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    args = parse(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The terminal may not be able to show a file name.
        sys.stdout.reconfigure(errors="backslashreplace")
    if args.table is None:
        print(aligned([(name, read_table(name).title) for name in table_names()]))
        return 0
    # JAX takes seconds to import: not before the flags are read.
    with waiting("reproducing", "loading"):
        from diffbir_jax.console.process import configure
        from diffbir_jax.evaluation.paper.run import run

    configure("fp32")
    try:
        return run(args)
    except KeyboardInterrupt:
        print("diffbir reproduce: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return INTERRUPTED
