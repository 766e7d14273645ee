"""A new LoRA of a network: which layers it changes, and what it starts from."""

import re

import numpy as np

from diffbir_jax.console.errors import UserError
from diffbir_jax.models.apply import Params
from diffbir_jax.weights.safetensors import flatten, unflatten

# All layers but the first convolution and those of the timestep, as HYPIR's LoRA of Stable Diffusion; of IRControlNet
# also its last convolutions.
LAYERS = r"(?!(.*/)?(conv_in|time|time_1|time_2)$).*"
# As well as these the first convolution, as OSEDiff; and the layers of an autoencoder that give its latents.
WITH_FIRST = r"(?!(.*/)?(time|time_1|time_2)$).*"
ENCODER = r"encoder/.*|quant_conv"


def new_lora(
    network: Params, rank: int, seed: int, layers: str = LAYERS, *, gaussian: bool = False
) -> Params:
    """Return factors for layers of a network, which change nothing yet.

    They start as PEFT's: A uniform within 1 / sqrt(inputs), B zero.

    Args:
        network: parameters, or their shapes.
        rank: at least 1.
        seed: of A.
        layers: regular expression of the layers' paths.
        gaussian: draw A from a normal distribution of deviation 1 / rank instead, PEFT's "gaussian".

    Returns:
        a tree as in `models.lora`, float32 on the host.
    """
    if rank < 1:
        raise UserError(f"config.lora.rank is {rank}, must be at least 1")
    kernels = {
        path.removesuffix("/kernel"): x for path, x in flatten(network).items() if path.endswith("/kernel")
    }
    flat: dict[str, np.ndarray] = {}
    for number, path in enumerate(path for path in sorted(kernels) if re.fullmatch(layers, path)):
        *front, inputs, outputs = kernels[path].shape
        bound = 1.0 / np.sqrt(np.prod(front, initial=inputs))
        rng = np.random.default_rng((seed, number))
        shape = (*front, inputs, rank)
        drawn = rng.normal(0.0, 1.0 / rank, shape) if gaussian else rng.uniform(-bound, bound, shape)
        flat[f"{path}/a"] = drawn.astype(np.float32)
        flat[f"{path}/b"] = np.zeros((rank, outputs), np.float32)
    return unflatten(flat)


def with_alpha(lora: Params, alpha: float) -> Params:
    """Return a tree of factors with `alpha` in each layer, as files of factors have it."""
    flat = dict(flatten(lora))
    flat |= {f"{path[:-2]}/alpha": np.float32(alpha) for path in flat if path.endswith("/a")}
    return unflatten(flat)
