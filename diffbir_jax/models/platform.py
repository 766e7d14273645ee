"""The kind of device that a network is traced for: some layers have a special form for CPUs."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax

# A context variable, so that threads can trace for different platforms at once.
_TARGET: ContextVar[str | None] = ContextVar("target", default=None)


def target_platform() -> str:
    """The platform of functions traced now, "cpu", "gpu" or "tpu": JAX's own, or that of `tracing_for`."""
    return _TARGET.get() or jax.default_backend()


@contextmanager
def tracing_for(platform: str) -> Iterator[None]:
    """Trace for devices that this process does not have. A CPU host can compile for a TPU in this way.

    A jitted function that was traced before keeps its form, so trace a new one inside.

    Args:
        platform: "cpu", "gpu" or "tpu".

    Raises:
        ValueError: `platform` is none of these.
    """
    if platform not in ("cpu", "gpu", "tpu"):
        raise ValueError(f"platform {platform!r} given, allowed are cpu, gpu, tpu")
    token = _TARGET.set(platform)
    try:
        yield
    finally:
        _TARGET.reset(token)
