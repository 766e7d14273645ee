"""A new LoRA of a network: which layers it changes, and what it starts from."""

import re

import numpy as np

from diffbir_jax.console.errors import UserError
from diffbir_jax.models.apply import Params
from diffbir_jax.weights.safetensors import flatten, unflatten

# All layers but the first convolution and those of the timestep, as HYPIR's LoRA of Stable Diffusion; of IRControlNet
# also its last convolutions.
LAYERS = r"(?!(.*/)?(conv_in|time|time_1|time_2)$).*"


def new_lora(network: Params, rank: int, seed: int) -> Params:
    """Return factors for the layers of a network that match `LAYERS`, which change nothing yet.

    They start as PEFT's: A uniform within 1 / sqrt(inputs), B zero.

    Args:
        network: parameters, or their shapes.
        rank: at least 1.
        seed: of A.

    Returns:
        a tree as in `models.lora`, float32 on the host.
    """
    if rank < 1:
        raise UserError(f"config.lora.rank is {rank}, must be at least 1")
    kernels = {
        path.removesuffix("/kernel"): x for path, x in flatten(network).items() if path.endswith("/kernel")
    }
    layers = [path for path in sorted(kernels) if re.fullmatch(LAYERS, path)]
    flat: dict[str, np.ndarray] = {}
    for number, path in enumerate(layers):
        *front, inputs, outputs = kernels[path].shape
        bound = 1.0 / np.sqrt(np.prod(front, initial=inputs))
        rng = np.random.default_rng((seed, number))
        flat[f"{path}/a"] = rng.uniform(-bound, bound, (*front, inputs, rank)).astype(np.float32)
        flat[f"{path}/b"] = np.zeros((rank, outputs), np.float32)
    return unflatten(flat)


def with_alpha(lora: Params, alpha: float) -> Params:
    """Return a tree of factors with `alpha` in each layer, as files of factors have it."""
    flat = dict(flatten(lora))
    flat |= {f"{path[:-2]}/alpha": np.float32(alpha) for path in flat if path.endswith("/a")}
    return unflatten(flat)
