"""Low-rank adaptation (Hu et al., "LoRA", 2021): a kernel W becomes W + scale A B, with few trainable parameters.

Convolutions are adapted in the same way: A has the kernel's size and `rank` outputs, B is a 1x1 convolution. Their
product is a kernel of W's shape, so the merged network has the same structure.
"""

import jax.numpy as jnp

from diffbir_jax.models.apply import Params


def merge(base: Params, lora: Params, scale: float) -> Params:
    """Return `base` with the adapted kernels, differentiable in `lora`.

    Args:
        base: nested dict of parameters; kernels are (..., I, O), of any float dtype.
        lora: the adapted part of `base`'s tree; each adapted layer is replaced by float32
            {"a": (..., I, rank), "b": (rank, O)}.
        scale: alpha / rank.

    Returns:
        Parameters with the structure of `base`; adapted kernels are float32, all other arrays are unchanged.

    Raises:
        ValueError: `lora` adapts a layer that `base` lacks.
    """
    return _merge(base, lora, scale, "")


def _merge(base: Params, lora: Params, scale: float, path: str) -> Params:
    # float32: in bfloat16 the update of an early step is smaller than the kernel's rounding, and lost.
    if lora.keys() == {"a", "b"}:
        return base | {"kernel": base["kernel"].astype(jnp.float32) + scale * (lora["a"] @ lora["b"])}
    if missing := lora.keys() - base.keys():
        names = ", ".join(f"{path}{name}" for name in sorted(missing))
        raise ValueError(f"LoRA of {names}, which the network lacks: is it of another network?")
    return base | {name: _merge(base[name], part, scale, f"{path}{name}/") for name, part in lora.items()}
