"""Packages that only some programs need, and the extra of this package that brings them."""

import importlib.util
import sys

from diffbir_jax.console.errors import UserError

# Extra -> modules that it brings.
EXTRAS: dict[str, tuple[str, ...]] = {
    "train": (
        "absl",
        "fsspec",
        "grain",
        "ml_collections",
        "msgpack",
        "optax",
        "orbax.checkpoint",
        "tensorboardX",
    ),
    "buckets": ("fsspec",),
    "captions": ("torch", "transformers"),
    "serve": ("fastapi", "prometheus_client", "python_multipart", "uvicorn"),
}
EXTRAS["web"] = EXTRAS["serve"]
# Not built for Windows.
EXTRAS["train"] += ("array_record",) * (sys.platform != "win32")


class MissingExtraError(UserError):
    """An extra is not installed; the message says how to install it."""


def require(extra: str) -> None:
    """Raise MissingExtraError unless the packages of an extra are installed."""
    if lacking := [name for name in EXTRAS[extra] if not is_installed(name)]:
        raise MissingExtraError(f"{', '.join(lacking)} missing: pip install 'diffbir-jax[{extra}]'")


def is_installed(name: str) -> bool:
    """Whether a module can be imported; it is not imported."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the package that would hold it is not there
        return False
