"""Restore photographs: python sample.py --input FILE_OR_DIR --output DIR. See --help."""

import io
import sys
from typing import NoReturn

from diffbir_jax.batch.flags import parse
from diffbir_jax.batch.report import complain
from diffbir_jax.batch.run import find_work, run
from diffbir_jax.batch.settings import FlagError
from diffbir_jax.console.errors import EXPECTED, one_line
from diffbir_jax.console.parser import INTERRUPTED
from diffbir_jax.console.process import configure


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    args = parse(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The terminal may not be able to show a file name.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        work = find_work(args)
        configure(work.settings.recipe.precision)
        sys.exit(run(work))
    except EXPECTED as error:
        complain(one_line(error))
        sys.exit(2 if isinstance(error, FlagError) else 1)
    except KeyboardInterrupt:
        complain("interrupted")
        sys.exit(INTERRUPTED)
