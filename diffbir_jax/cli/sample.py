"""Restore photographs: diffbir restore PHOTO -o DIR. See --help."""

import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

from diffbir_jax.batch.flags import make_parser, missing_input, parse
from diffbir_jax.console.errors import EXPECTED, as_flags, one_line
from diffbir_jax.console.parser import INTERRUPTED

__all__ = ["main", "make_parser"]


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    args = parse(argv)
    if problem := missing_input(args):
        make_parser().refuse(problem)
    # JAX takes seconds to import: not before the flags are read.
    from diffbir_jax.batch.idle import idle_flags
    from diffbir_jax.batch.report import complain
    from diffbir_jax.batch.run import find_work, run
    from diffbir_jax.batch.settings import FlagError
    from diffbir_jax.console.process import configure
    from diffbir_jax.models.attention import force

    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: complain(f"warning: {as_flags(str(message))}")
            work = find_work(args)
            if idle := idle_flags(args.given, work.settings.recipe):
                complain(f"warning: {idle}")
            configure(work.settings.recipe.precision)
            force(work.settings.recipe.attention)
            sys.exit(run(work))
    except EXPECTED as error:
        complain(one_line(error))
        sys.exit(2 if isinstance(error, FlagError) else 1)
    except KeyboardInterrupt:
        complain("interrupted")
        sys.exit(INTERRUPTED)
