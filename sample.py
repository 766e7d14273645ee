"""Restore photographs: python sample.py --input FILE_OR_DIR --output DIR. See --help."""

import io
import os
import sys
from pathlib import Path
from typing import NoReturn

import jax

from diffbir_jax.batch.drive import EXPECTED
from diffbir_jax.batch.flags import parse
from diffbir_jax.batch.memory import return_freed_memory
from diffbir_jax.batch.report import complain, one_line
from diffbir_jax.batch.run import find_work, run
from diffbir_jax.batch.settings import FlagError
from diffbir_jax.cli import INTERRUPTED

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "diffbir_jax" / "compiled"


def configure(precision: str) -> None:
    """Set what is set once per process."""
    return_freed_memory()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(CACHE))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    if precision == "fp32":
        # By default TPUs multiply float32 in passes of bfloat16, recent GPUs in TF32.
        jax.config.update("jax_default_matmul_precision", "highest")


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    args = parse(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files need not be text that the terminal can show.
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


if __name__ == "__main__":
    main()
