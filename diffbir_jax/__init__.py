"""DiffBIR: blind image restoration with a generative diffusion prior, in JAX.

>>> from diffbir_jax import restore
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffbir_jax import faces as faces
    from diffbir_jax.console.errors import UserError
    from diffbir_jax.faces.call import restore
    from diffbir_jax.restoration.restorer import Restorer
    from diffbir_jax.sampling.options import Options

__version__ = "0.1.0"
__all__ = ["Options", "Restorer", "UserError", "restore"]

_PLACES = {
    "Options": "diffbir_jax.sampling.options",
    "Restorer": "diffbir_jax.restoration.restorer",
    "UserError": "diffbir_jax.console.errors",
    "restore": "diffbir_jax.faces.call",
}


def __getattr__(name: str) -> object:
    """Import these names at their first use: what only reads weights or tables does not wait for the networks."""
    if name == "faces":
        return importlib.import_module("diffbir_jax.faces")
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
