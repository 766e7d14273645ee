"""Which kind of device a network is traced for: some layers have a form of their own for CPUs."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax

_TARGET: ContextVar[str | None] = ContextVar("target", default=None)


def target_platform() -> str:
    """The platform that functions traced now will run on, "cpu", "gpu" or "tpu": JAX's own, unless `tracing_for`."""
    return _TARGET.get() or jax.default_backend()


@contextmanager
def tracing_for(platform: str) -> Iterator[None]:
    """Trace for devices that this process does not have, as a CPU host does that compiles for a TPU.

    A jitted function that was traced before keeps its form: trace a new one inside.

    Args:
        platform: "cpu", "gpu" or "tpu".

    Raises:
        ValueError: it is none of these.
    """
    if platform not in ("cpu", "gpu", "tpu"):
        raise ValueError(f"platform {platform!r} given, allowed are cpu, gpu, tpu")
    token = _TARGET.set(platform)
    try:
        yield
    finally:
        _TARGET.reset(token)
