"""Settings of the process."""

import contextlib
import ctypes
import os
import sys
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from diffbir_jax.console.interrupts import told

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "diffbir_jax" / "compiled"
# Freed blocks of more bytes go back to the system.
RETURNED = 2**20
M_MMAP_THRESHOLD = -3


def configure(precision: str) -> None:
    """Set what a process needs to set once: a compilation cache, exact products, and the return of freed memory.

    Settings that the caller has made stay: of JAX's options jax_compilation_cache_dir and jax_default_matmul_precision,
    or of the environment.

    Args:
        precision: of the networks; with "fp32" products are exact on accelerators, too.
    """
    # The imports before this take seconds, and lose exceptions of signals.
    told.heed()
    return_freed_memory()
    if not _is_set("jax_compilation_cache_dir"):
        jax.config.update("jax_compilation_cache_dir", str(CACHE))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        # Whoever compiled before has settled that there is none.
        compilation_cache.reset_cache()
    if precision == "fp32" and not _is_set("jax_default_matmul_precision"):
        # By default TPUs multiply float32 in passes of bfloat16, recent GPUs in TF32.
        jax.config.update("jax_default_matmul_precision", "highest")


def _is_set(option: str) -> bool:
    return getattr(jax.config, option) is not None


def return_freed_memory() -> None:
    """Keep the GNU C library from holding freed arrays.

    The library returns freed blocks above a size threshold. It raises this threshold, up to 32 MiB, when a larger
    block is freed, and keeps smaller blocks for later: with tiles of all sizes a fifth of the process. Other C
    libraries need no setting.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").mallopt(M_MMAP_THRESHOLD, RETURNED)
