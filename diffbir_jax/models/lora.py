"""Low-rank adaptation (Hu et al., "LoRA", 2021): a kernel W becomes W + scale A B, with two small factors A and B.

Convolutions are adapted in the same way: A has the kernel's size and `rank` outputs, B is a 1x1 convolution. Their
product is a kernel of W's shape, so the merged network has the same structure.

An adapted layer is {"a": (..., I, rank), "b": (rank, O)} at its place in the network's tree, with "alpha", a scalar, if
the layer has a scale of its own.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.module import InterceptorContext
from jax import Array

from diffbir_jax.files.trees import Params, Tree
from diffbir_jax.models.apply import apply
from diffbir_jax.models.layers import Conv, Dense, PlainConv, repeat_batch

FACTORS = {"a", "b"}
# PEFT's alpha where nobody sets it; the scale of an adapter is alpha / rank.
DEFAULT_ALPHA = 8.0


def merge(base: Params, lora: Params, scale: float) -> Params:
    """Return `base` with the adapted kernels, differentiable in `lora`.

    Args:
        base: nested dict of parameters; kernels are (..., I, O), of any float dtype.
        lora: the adapted part of `base`'s tree, see the module's docstring; factors are float32.
        scale: alpha / rank; of layers with an alpha of their own, a factor on alpha / rank.

    Returns:
        Parameters with the structure of `base`; adapted kernels are float32, all other arrays are unchanged.

    Raises:
        ValueError: `lora` adapts a layer that `base` lacks.
    """
    return _merge(base, lora, scale, "")


def is_layer(lora: Params) -> bool:
    """Whether a node of the tree is an adapted layer."""
    return FACTORS <= lora.keys() <= FACTORS | {"alpha"}


def scale_of(layer: Params, scale: float | Array) -> float | Array:
    """Return the factor on A B of an adapted layer; `scale` as in `merge`."""
    return scale * layer["alpha"] / layer["b"].shape[0] if "alpha" in layer else scale


def product(layer: Params, scale: float | Array) -> Array:
    """Return what an adapted layer adds to its kernel, (..., I, O); `scale` as in `merge`."""
    return scale_of(layer, scale) * (layer["a"] @ layer["b"])


@contextmanager
def adapted(
    lora: Params, scale: float = 1.0, modulation: Callable[[str], Array | None] = lambda path: None
) -> Iterator[None]:
    """Within this context, networks that are applied have a LoRA beside their kernels: y = W x + scale B (M^T (A x)).

    Equal to `merge` if there is no modulation. It keeps one set of kernels for several LoRAs, or for one per image.

    Args:
        lora, scale: as in `merge`.
        modulation: path of a layer, joined with "/" -> M (B, rank, rank), M[k, r] for each image, or None. Rows of the
            layer's input may be several per image, next to each other.
    """
    layers = adapted_layers(lora)

    def intercept(
        call: Callable[..., Tree], inputs: tuple, kwargs: dict, context: InterceptorContext
    ) -> Tree:
        layer = layers.get(path := "/".join(context.module.path))
        if layer is None or context.method_name != "__call__":
            return call(*inputs, **kwargs)
        return call(*inputs, **kwargs) + _branch(context.module, layer, scale, inputs, modulation(path))

    with nn.intercept_methods(intercept):
        yield


def runner(params: Params, frozen: Params, scale: float = 1.0) -> Callable[..., Tree]:
    """Return (name, module, *inputs) -> output of a network with what is trained in place of what is frozen.

    LoRAs run beside the kernels: merged ones would have gradients of their size in float32.

    Args:
        params: trained parameters by network, and, as "lora", LoRAs by network.
        frozen: the other parameters by network.
        scale: as in `merge`.
    """
    networks, loras = {**frozen, **params}, params.get("lora", {})

    def run(name: str, module: nn.Module, *inputs: Tree) -> Tree:
        with adapted(loras[name], scale) if name in loras else nullcontext():
            return apply(module, networks[name], *inputs)

    return run


def adapted_layers(lora: Params, path: str = "") -> dict[str, Params]:
    """Return path, joined with "/" -> adapted layer."""
    if is_layer(lora):
        return {path: lora}
    found: dict[str, Params] = {}
    for name, part in lora.items():
        found |= adapted_layers(part, f"{path}/{name}" if path else name)
    return found


def _branch(
    module: nn.Module,
    layer: Params,
    scale: float,
    inputs: tuple[Tree, ...],
    modulation: Array | None,
) -> Array:
    """What the layer adds to the output of `module` for its arguments."""
    dtype = module.dtype  # pyright: ignore[reportAttributeAccessIssue]
    y = _down(module, inputs[0].astype(dtype), layer["a"].astype(dtype), *inputs[1:])
    if modulation is not None:
        rows = repeat_batch(modulation.astype(dtype), len(y))
        y = jnp.einsum("b...k,bkr->b...r", y, rows)
    return (scale_of(layer, scale) * (y @ layer["b"].astype(dtype))).astype(dtype)


def _down(module: nn.Module, x: Array, a: Array, *more: Tree) -> Array:
    """A x, computed as the layer computes W x."""
    if isinstance(module, Conv):
        return module.convolved(x, a, *more)
    if isinstance(module, Dense):
        return x @ a
    if isinstance(module, PlainConv) and a.shape[:2] == (1, 1):
        return x @ a[0, 0]
    raise ValueError(f"no LoRA beside a {type(module).__name__} with a kernel {a.shape}")


def _merge(base: Params, lora: Params, scale: float, path: str) -> Params:
    # float32: in bfloat16 the update of an early step is smaller than the kernel's rounding, and lost.
    if is_layer(lora):
        return base | {"kernel": base["kernel"].astype(jnp.float32) + product(lora, scale)}
    if missing := lora.keys() - base.keys():
        names = ", ".join(f"{path}{name}" for name in sorted(missing))
        raise ValueError(f"LoRA of {names}, which the network lacks: is it of another network?")
    return base | {name: _merge(base[name], part, scale, f"{path}{name}/") for name, part in lora.items()}
