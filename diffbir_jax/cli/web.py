"""Restore photos on a page in the browser: diffbir web. See --help."""

import sys
from collections.abc import Sequence
from typing import NoReturn

from diffbir_jax.console.errors import UserError
from diffbir_jax.console.extras import require
from diffbir_jax.web.flags import make_parser

__all__ = ["main", "make_parser"]


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    parser = make_parser()
    args = parser.parse_args(argv)
    try:
        require("web")
    except UserError as error:
        parser.refuse(error)
    # JAX and the web libraries take seconds to import: not before the flags are read.
    from diffbir_jax.console.process import configure
    from diffbir_jax.serve.run import run
    from diffbir_jax.web.app import create_page

    configure(args.precision)
    sys.exit(run(args, "web", create_page))
