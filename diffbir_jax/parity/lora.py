"""The small LoRA of one-step restorers: key tables (peft's names, diffusers' layers) and computed weights."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from diffbir_jax.conversion import diffusers
from diffbir_jax.conversion.abstract import abstract_unet
from diffbir_jax.conversion.engine import CONV, POINTWISE, Params, Rule, export
from diffbir_jax.conversion.rules import Rules
from diffbir_jax.parity.networks import NETWORKS
from diffbir_jax.parity.weights import filled
from diffbir_jax.training.lora import merge
from diffbir_jax.weights.safetensors import flatten, unflatten

UNET = NETWORKS["unet"].small


@dataclass(frozen=True)
class Adapter:
    """A LoRA on all layers of the small UNet, except the layers of the timestep.

    Attributes:
        module: its module name for the computed weights (`weights.fill`).
        rank: rank of all layers.
        scale: alpha / rank.
        name: layer -> peft's name of its adapter; None if the layer has none.
    """

    module: str
    rank: int
    scale: float
    name: Callable[[str], str | None]

    def weights(self, salt: str) -> Params:
        """Return computed parameters in the structure for `merge`."""
        return filled(self.module, self._rules(), self._shapes(), salt)

    def merged(self, base: Params, lora: Params) -> Params:
        """Return the UNet `base` with the LoRA merged into its kernels."""
        return merge(base, lora, self.scale)

    def by_key(self, lora: Params) -> dict[str, np.ndarray]:
        """Return the arrays of the LoRA's tree by peft's keys, in PyTorch's layout."""
        return export(lora, list(self._rules()))

    def _rules(self) -> Rules:
        for rule in _kernels():
            layer, path = rule.key.removesuffix(".weight"), rule.path.removesuffix("/kernel")
            if name := self.name(layer):
                yield Rule(f"{layer}.lora_A.{name}.weight", f"{path}/a", rule.layout)
                # B of a convolution is a 1x1 convolution.
                layout = POINTWISE if rule.layout is CONV else rule.layout
                yield Rule(f"{layer}.lora_B.{name}.weight", f"{path}/b", layout)

    def _shapes(self) -> Params:
        base = flatten(abstract_unet(UNET))
        paths = [rule.path.removesuffix("/a") for rule in self._rules() if rule.path.endswith("/a")]
        shapes = {path: base[f"{path}/kernel"].shape for path in paths}
        sizes = {f"{path}/a": (*shape[:-1], self.rank) for path, shape in shapes.items()}
        sizes |= {f"{path}/b": (self.rank, shape[-1]) for path, shape in shapes.items()}
        return unflatten({path: jax.ShapeDtypeStruct(size, jnp.float32) for path, size in sizes.items()})


def _kernels() -> list[Rule]:
    rules = diffusers.unet_rules(UNET)
    # The reference adapts no layer of the timestep.
    return [rule for rule in rules if rule.path.endswith("/kernel") and "time_emb" not in rule.key]


def _osediff(layer: str) -> str:
    parts = {"down_blocks": "encoder", "conv_in": "encoder", "up_blocks": "decoder", "conv_out": "decoder"}
    return f"default_{parts.get(layer.split('.')[0], 'others')}"


REGULARISER = Adapter("osediff_reg", 4, 2.0, _osediff)
HYPIR = Adapter("hypir", 8, 1.0, lambda layer: None if layer == "conv_in" else "default")
