"""Random inputs from NumPy: JAX's own draws compile a program for every shape, which takes longer than the tests."""

import jax
import jax.numpy as jnp
import numpy as np


def normal(seed: int, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal float32 values."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def uniform(seed: int, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> jax.Array:
    """Uniform float32 values in [low, high)."""
    return jnp.asarray(np.random.default_rng(seed).uniform(low, high, shape), jnp.float32)
