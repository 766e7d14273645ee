"""DiffBIR: blind image restoration with a generative diffusion prior, in JAX.

>>> from diffbir_jax import Restorer
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffbir_jax.restoration.restorer import Restorer

__version__ = "0.1.0"
__all__ = ["Restorer"]


def __getattr__(name: str) -> object:
    """Import `Restorer` at its first use: what only reads weights or tables does not wait for the networks."""
    if name != "Restorer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from diffbir_jax.restoration.restorer import Restorer

    return Restorer
