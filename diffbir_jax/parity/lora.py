"""The small LoRAs of one-step restorers: key tables (PEFT's names, diffusers' layers) and computed weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from diffbir_jax.conversion import diffusers
from diffbir_jax.conversion.abstract import abstract_unet, abstract_vae
from diffbir_jax.conversion.engine import CONV, POINTWISE, Params, Rule, export
from diffbir_jax.conversion.rules import Rules
from diffbir_jax.models.lora import merge
from diffbir_jax.parity.networks import NETWORKS
from diffbir_jax.parity.weights import filled
from diffbir_jax.weights.safetensors import flatten, unflatten

UNET, VAE = NETWORKS["unet"].small, NETWORKS["vae"].small


@dataclass(frozen=True)
class Adapter:
    """A LoRA on layers of a small network.

    Attributes:
        module: its module name for the computed weights (`weights.fill`).
        rank: rank of all layers.
        scale: alpha / rank.
        name: layer -> PEFT's name of its adapter; None if the layer has none.
        network: "unet" or "vae".
        prefix: of all keys.
    """

    module: str
    rank: int
    scale: float
    name: Callable[[str], str | None]
    network: str = "unet"
    prefix: str = ""

    def weights(self, salt: str) -> Params:
        """Return computed parameters in the structure for `merge`."""
        return filled(self.module, self.rules(), self._shapes(), salt)

    def merged(self, base: Params, lora: Params) -> Params:
        """Return the network `base` with the LoRA merged into its kernels."""
        return merge(base, lora, self.scale)

    def by_key(self, lora: Params) -> dict[str, np.ndarray]:
        """Return the arrays of the LoRA's tree by PEFT's keys, in PyTorch's layout."""
        return export(lora, list(self.rules()))

    def rules(self) -> Rules:
        """Return the key table."""
        for rule in _kernels(self.network):
            layer, path = rule.key.removesuffix(".weight"), rule.path.removesuffix("/kernel")
            if name := self.name(layer):
                key = f"{self.prefix}{layer}"
                yield Rule(f"{key}.lora_A.{name}.weight", f"{path}/a", rule.layout)
                # B of a convolution is a 1x1 convolution.
                layout = POINTWISE if rule.layout is CONV else rule.layout
                yield Rule(f"{key}.lora_B.{name}.weight", f"{path}/b", layout)

    def _shapes(self) -> Params:
        base = flatten(abstract_unet(UNET) if self.network == "unet" else abstract_vae(VAE))
        paths = [rule.path.removesuffix("/a") for rule in self.rules() if rule.path.endswith("/a")]
        shapes = {path: base[f"{path}/kernel"].shape for path in paths}
        sizes = {f"{path}/a": (*shape[:-1], self.rank) for path, shape in shapes.items()}
        sizes |= {f"{path}/b": (self.rank, shape[-1]) for path, shape in shapes.items()}
        return unflatten({path: jax.ShapeDtypeStruct(size, jnp.float32) for path, size in sizes.items()})


def merged_kernels(params: Params, network: str, keys: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Return kernels of a small network in PyTorch's layout: name of the result -> diffusers' key."""
    rules = diffusers.unet_rules(UNET) if network == "unet" else diffusers.vae_rules(VAE)
    by_key, flat = {rule.key: rule for rule in rules}, flatten(params)
    return {
        name: by_key[key].layout.to_torch(np.asarray(flat[by_key[key].path])) for name, key in keys.items()
    }


def _kernels(network: str) -> list[Rule]:
    rules = diffusers.unet_rules(UNET) if network == "unet" else diffusers.vae_rules(VAE)
    # The reference adapts no layer of the timestep.
    return [rule for rule in rules if rule.path.endswith("/kernel") and "time_emb" not in rule.key]


def _grouped(suffix: str = "") -> Callable[[str], str]:
    parts = {"down_blocks": "encoder", "conv_in": "encoder", "up_blocks": "decoder", "conv_out": "decoder"}
    return lambda layer: f"default_{parts.get(layer.split('.')[0], 'others')}{suffix}"


def _in_encoder(name: str, more: tuple[str, ...] = ()) -> Callable[[str], str | None]:
    return lambda layer: name if layer.startswith("encoder.") or layer in more else None


def _without_first(layer: str) -> str | None:
    return None if layer == "conv_in" else "default"


REGULARISER = Adapter("osediff_reg", 4, 2.0, _grouped())
HYPIR = Adapter("hypir", 8, 1.0, _without_first)
OSEDIFF = Adapter("osediff", 4, 2.0, _grouped(), prefix="state_dict_unet.")
OSEDIFF_VAE = Adapter(
    "osediff", 4, 2.0, _in_encoder("default_encoder", ("quant_conv",)), "vae", "state_dict_vae."
)
PIXEL, SEMANTIC = (
    Adapter("pisa_sr", 4, 2.0, _grouped(suffix), prefix="state_dict_unet.") for suffix in ("_pix", "_sem")
)
S3DIFF = Adapter("s3diff", 16, 0.5, _without_first, prefix="state_dict_unet.")
S3DIFF_VAE = Adapter("s3diff", 4, 2.0, _in_encoder("vae_skip"), "vae", "state_dict_vae.")
