"""Restore photographs: diffbir restore PHOTO -o DIR. See --help."""

import os
import sys
import warnings
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from diffbir_jax.batch.flags import make_parser, missing_input, parse
from diffbir_jax.console.errors import EXPECTED, as_flags, one_line
from diffbir_jax.console.parser import INTERRUPTED
from diffbir_jax.console.plain import plain
from diffbir_jax.console.progress import waiting

if TYPE_CHECKING:
    from diffbir_jax.batch.run import Work

__all__ = ["main", "make_parser"]


def show_index(page: Path, work: "Work", code: int) -> None:
    """Write the page of a run's results, and open it unless the run was interrupted or there is no display."""
    from diffbir_jax.evaluation.report.index import write_index

    if not write_index(page, work.jobs, work.settings):
        return
    print(f"{plain(page)} shows before and after; open it in a browser", flush=True)
    # Without a display the standard library may start a browser in the terminal, which waits for keys.
    display = (
        sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    if display and code != INTERRUPTED:
        webbrowser.open(page.absolute().as_uri())


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    args = parse(argv)
    if problem := missing_input(args):
        make_parser().refuse(problem)
    # JAX takes seconds to import: not before the flags are read.
    with waiting("restoring", "loading"):
        from diffbir_jax.batch.ends import ends_of
        from diffbir_jax.batch.idle import idle_flags
        from diffbir_jax.batch.report import complain
        from diffbir_jax.batch.run import find_work, run
        from diffbir_jax.batch.settings import FlagError
        from diffbir_jax.console.process import configure
        from diffbir_jax.evaluation.report.index import index_path
        from diffbir_jax.models.attention import force

    try:
        with ends_of(args) as ends, warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: complain(f"warning: {as_flags(str(message))}")
            work = find_work(args, ends)
            if not args.auto and (idle := idle_flags(args.given, work.settings.recipe)):
                complain(f"warning: {idle}")
            configure(work.settings.recipe.precision)
            force(work.settings.recipe.attention)
            page = index_path(work.settings) if args.open else None
            code = run(work)
            if page is not None and not (args.plan or args.warmup):
                show_index(page, work, code)
            sys.exit(code)
    except EXPECTED as error:
        complain(one_line(error))
        sys.exit(2 if isinstance(error, FlagError) else 1)
    except KeyboardInterrupt:
        complain("interrupted")
        sys.exit(INTERRUPTED)
