"""DiffBIR: blind image restoration with a generative diffusion prior, in JAX."""

__version__ = "0.1.0"
