"""What an image must be before the pipeline goes on with it."""

from typing import Any

import jax
import jax.numpy as jnp


def check_finite(image: jax.Array, stage: str, dtype: Any) -> None:
    """Raise ValueError if what a stage computed in `dtype` holds NaN or infinity, which bytes would show as black."""
    if not jnp.isfinite(image).all():
        raise ValueError(
            f"{stage} gave NaN or infinity in {jnp.dtype(dtype).name}; use --precision bf16 or fp32 and scales that "
            "are less extreme, and if it stays, convert the weights anew: a file is damaged"
        )
