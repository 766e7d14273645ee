"""What is set once per process."""

import contextlib
import ctypes
import os
import sys
from pathlib import Path

import jax

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "diffbir_jax" / "compiled"
# Blocks of more bytes go back to the system when they are freed.
RETURNED = 2**20
M_MMAP_THRESHOLD = -3


def configure(precision: str) -> None:
    """Set what is set once per process."""
    return_freed_memory()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(CACHE))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    if precision == "fp32":
        # By default TPUs multiply float32 in passes of bfloat16, recent GPUs in TF32.
        jax.config.update("jax_default_matmul_precision", "highest")


def return_freed_memory() -> None:
    """Keep the GNU C library from holding freed arrays.

    It raises the size from which it returns memory whenever a larger block is freed, up to 32 MiB, and keeps what is
    smaller for later: with tiles of all sizes a fifth of the process. Elsewhere nothing is to be done.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").mallopt(M_MMAP_THRESHOLD, RETURNED)
