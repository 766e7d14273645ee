"""Score restored images: diffbir evaluate --pred DIR --gt DIR --output DIR. See --help."""

import io
import sys
from collections.abc import Sequence
from typing import NoReturn

from diffbir_jax.console.errors import EXPECTED, one_line
from diffbir_jax.console.parser import INTERRUPTED
from diffbir_jax.console.progress import waiting
from diffbir_jax.evaluation.flags import make_parser, parse

__all__ = ["main", "make_parser"]


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    args = parse(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The terminal may not be able to show a file name.
        sys.stdout.reconfigure(errors="backslashreplace")
    # JAX takes seconds to import: not before the flags are read.
    with waiting("evaluating", "loading"):
        from diffbir_jax.console.process import configure
        from diffbir_jax.evaluation.run import run

    configure("fp32")
    try:
        sys.exit(run(args))
    except EXPECTED as error:
        print(f"diffbir evaluate: {one_line(error)}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("diffbir evaluate: interrupted; the same command goes on where it stopped", file=sys.stderr)
        sys.exit(INTERRUPTED)
