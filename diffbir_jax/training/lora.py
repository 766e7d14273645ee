"""Low-rank adaptation (Hu et al., "LoRA", 2021): a kernel W becomes W + scale A B, with few parameters to train.

Convolutions are adapted likewise: A has the kernel's size and `rank` outputs, B is a 1x1 convolution. The product of
both is a kernel of W's shape, so merging leaves the network as it is.
"""

import jax.numpy as jnp

from diffbir_jax.models.apply import Params


def merge(base: Params, lora: Params, scale: float) -> Params:
    """Return `base` with the adapted kernels, differentiable in `lora`.

    Args:
        base: nested dict of parameters; kernels are (..., I, O), of any float dtype.
        lora: the tree of `base` as far as it is adapted, with {"a": (..., I, rank), "b": (rank, O)} float32 in place of
            the adapted layers.
        scale: alpha / rank.

    Returns:
        Parameters of the structure of `base`; adapted kernels are float32, all else is what it was.

    Raises:
        ValueError: `lora` adapts a layer that `base` lacks.
    """
    return _merge(base, lora, scale, "")


def _merge(base: Params, lora: Params, scale: float, path: str) -> Params:
    if lora.keys() == {"a", "b"}:
        return base | {"kernel": base["kernel"].astype(jnp.float32) + scale * (lora["a"] @ lora["b"])}
    if missing := lora.keys() - base.keys():
        names = ", ".join(f"{path}{name}" for name in sorted(missing))
        raise ValueError(f"LoRA of {names}, which the network lacks: is it of another network?")
    return base | {name: _merge(base[name], part, scale, f"{path}{name}/") for name, part in lora.items()}
