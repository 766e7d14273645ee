"""The devices that a network is traced for: some layers have a special form for some."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax
from jax.sharding import Mesh

# Compute capabilities of NVIDIA's chips.
AMPERE, HOPPER = 8.0, 9.0
# Context variables, so that threads can trace for different devices at once.
_TARGET: ContextVar[str | None] = ContextVar("target", default=None)
_MESH: ContextVar[Mesh | None] = ContextVar("mesh", default=None)
_ONLY_SHAPES: ContextVar[bool] = ContextVar("only_shapes", default=False)


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


@contextmanager
def batches_over(mesh: Mesh | None) -> Iterator[None]:
    """Trace for batches that are split over all devices of a mesh along their first axis; None: nothing is known."""
    token = _MESH.set(mesh)
    try:
        yield
    finally:
        _MESH.reset(token)


def batch_mesh() -> Mesh | None:
    """Return the mesh of `batches_over`, or None outside it: how devices share a batch is then not known."""
    return _MESH.get()


@contextmanager
def no_values() -> Iterator[None]:
    """Within this context only shapes and dtypes are right: parameters are zeros, layers take their shortest form.

    Initialisers, statistics and fast convolutions take long to trace.
    """
    token = _ONLY_SHAPES.set(True)
    try:
        yield
    finally:
        _ONLY_SHAPES.reset(token)


def only_shapes() -> bool:
    """Whether values do not matter, see `no_values`."""
    return _ONLY_SHAPES.get()


def compute_capability() -> float:
    """That of the GPU, such as 8.9; where there is none, Ampere's: the process compiles for others."""
    if jax.default_backend() != "gpu":
        return AMPERE
    return float(getattr(jax.local_devices()[0], "compute_capability", AMPERE))
