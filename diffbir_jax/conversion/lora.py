"""LoRA files by the names of PEFT, diffusers and kohya, as trees for `models/lora.py`, and back to PEFT's names.

All of them name layers as diffusers and transformers do. PEFT's names hold the adapter; the others have none.
"""

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from diffbir_jax.console.plain import shown
from diffbir_jax.conversion import diffusers
from diffbir_jax.conversion.engine import CONV, DENSE, POINTWISE, Layout, Params, is_floating, raise_all
from diffbir_jax.conversion.stored import CheckpointError, Shaped
from diffbir_jax.models.clip import CLIPTextConfig
from diffbir_jax.models.lora import adapted_layers
from diffbir_jax.models.unet import UNetConfig
from diffbir_jax.models.vae import VAEConfig
from diffbir_jax.weights.safetensors import unflatten

# Sizes of a network that LoRAs change.
Sizes = UNetConfig | VAEConfig | CLIPTextConfig
# Prefixes of a network's layers. A file without any is of the UNet.
NETWORKS = {
    "unet": ("state_dict_unet.", "unet.", "base_model.model.", "lora_unet_"),
    "control": ("control.", "controlnet."),
    "vae": ("state_dict_vae.", "vae."),
    "text": ("text_encoder.", "lora_te_", "lora_te1_"),
}
RULES = {
    "unet": diffusers.unet_rules,
    "control": diffusers.control_rules,
    "vae": diffusers.vae_rules,
    "text": diffusers.clip_rules,
}
# Names of a layer's factors; A is what its input meets first.
ROLES = {"A": "a", "B": "b", "down": "a", "up": "b", "alpha": "alpha"}
NAMES = (
    # PEFT, and diffusers since 0.22
    r"(?P<layer>.+)\.lora_(?P<role>[AB])(\.(?P<adapter>[^.]+))?\.weight",
    # diffusers before, in the processors of attention
    r"(?P<layer>.+)\.processor\.(?P<part>to_[a-z]+)_lora\.(?P<role>down|up)\.weight",
    # diffusers before, other layers
    r"(?P<layer>.+)\.lora(_linear_layer)?\.(?P<role>down|up)\.weight",
    # kohya
    r"(?P<layer>.+)\.lora_(?P<role>down|up)\.weight",
    r"(?P<layer>.+)\.(?P<role>alpha)",
)
# The adapter of names without one.
PLAIN = "default"


class Place(NamedTuple):
    """Where a layer of diffusers or transformers lies in our parameters.

    Attributes:
        path: of the layer, joined with "/".
        layout: of its kernel.
        index: of a block that the Flax side stacks, else None.
        part: (number, count) of a layer that the Flax side joins with others along its outputs, else None.
    """

    path: str
    layout: Layout
    index: int | None = None
    part: tuple[int, int] | None = None


class Key(NamedTuple):
    """What a key of a LoRA file names; `layer` is by diffusers' name, or kohya's, which has "_" in place of "."."""

    network: str
    layer: str
    adapter: str
    role: str


@dataclass(frozen=True)
class Adapter:
    """The layers that one adapter changes.

    Attributes:
        network: "unet", "control", "vae" or "text".
        name: its name; `PLAIN` if the file has none.
        layers: diffusers' name of a layer -> {"a", "b"} and perhaps "alpha", arrays in PyTorch's layout.
    """

    network: str
    name: str
    layers: Mapping[str, Mapping[str, Shaped]]


@functools.cache
def places(network: str, config: Sizes) -> Mapping[str, Place]:
    """Return the place of every layer with a kernel, by its name in diffusers or transformers."""
    found: dict[str, Place] = {}
    for rule in RULES[network](config):  # pyright: ignore[reportArgumentType]
        layer = re.sub(r"\.(in_proj_)?weight$", "", rule.key)
        if not rule.path.endswith("/kernel"):
            continue
        place = Place(rule.path.removesuffix("/kernel"), rule.layout, rule.index)
        if rule.key.endswith(".in_proj_weight"):
            found |= {f"{layer}.{name}_proj": place._replace(part=(i, 3)) for i, name in enumerate("qkv")}
        else:
            found[layer] = place
    return found


def is_lora(key: str) -> bool:
    """Whether a key names a part of a LoRA."""
    return any(re.fullmatch(name, key) for name in NAMES)


def adapters(state: Mapping[str, Shaped], configs: Mapping[str, Sizes]) -> list[Adapter]:
    """Return the adapters in a LoRA file.

    Args:
        state: key -> array; only the keys of LoRAs.
        configs: sizes of "unet", "control", "vae" and "text", as far as the file has them.

    Raises:
        ConversionError: a key names no layer, or a layer lacks a factor; all are listed.
    """
    tables = {name: places(name, config) for name, config in configs.items()}
    found: dict[tuple[str, str], dict[str, dict[str, Shaped]]] = {}
    problems = []
    for key, value in state.items():
        named = _named(key, tables)
        if named is None:
            problems.append(f"no layer {shown(key)}")
        elif not is_floating(value.dtype):
            problems.append(f"no floating numbers {shown(key)}: stored as {value.dtype}")
        else:
            layers = found.setdefault((named.network, named.adapter), {})
            layers.setdefault(named.layer, {})[named.role] = value
    for (network, _), layers in found.items():
        for layer, parts in layers.items():
            problems += [f"missing {part} of {layer} ({network})" for part in "ab" if part not in parts]
    raise_all("the LoRA does not fit the network", problems)
    return [Adapter(network, name, layers) for (network, name), layers in found.items()]


def tree(adapter: Adapter, config: Sizes) -> Params:
    """Return an adapter's factors in the structure of `models/lora.py`, float32.

    Raises:
        ConversionError: factors do not fit each other.
        CheckpointError: a layer has no place of its own in our network, as in the text encoder.
    """
    table, flat, problems = places(adapter.network, config), {}, []
    for layer, parts in adapter.layers.items():
        place, (a, b) = table[layer], (_array(parts[name]) for name in "ab")
        if place.index is not None:
            raise CheckpointError(f"{layer} shares a parameter with other layers: merge this LoRA")
        if a.shape[0] != b.shape[1] or a[0].size == 0:
            problems.append(f"factors of {layer} do not fit: {a.shape} and {b.shape}")
            continue
        flat[f"{place.path}/a"] = _flax(a, place.layout)
        flat[f"{place.path}/b"] = b.reshape(b.shape[:2]).T
        if "alpha" in parts:
            flat[f"{place.path}/alpha"] = _array(parts["alpha"]).reshape(())
    raise_all("the LoRA does not fit the network", problems)
    return unflatten(flat)


def deltas(adapter: Adapter, config: Sizes, scale: float) -> Iterator[tuple[str, int | None, np.ndarray]]:
    """Yield what an adapter adds to our kernels: path of the kernel, index of its block, float32 array.

    Parts of joined kernels come with zeros beside them.
    """
    table = places(adapter.network, config)
    for layer, parts in adapter.layers.items():
        place, a, b = table[layer], _array(parts["a"]), _array(parts["b"])
        rank = a.shape[0]
        factor = scale * float(_array(parts["alpha"])) / rank if "alpha" in parts else scale
        delta = np.float32(factor) * (_flax(a, place.layout) @ b.reshape(b.shape[:2]).T)
        if place.part is not None:
            number, count = place.part
            whole = np.zeros((*delta.shape[:-1], count, delta.shape[-1]), np.float32)
            whole[..., number, :] = delta
            delta = whole.reshape(*delta.shape[:-1], -1)
        yield f"{place.path}/kernel", place.index, delta


def to_peft(
    lora: Params, network: str, config: Sizes, name_of: Mapping[str, str] | str = PLAIN
) -> dict[str, np.ndarray]:
    """Return a tree's factors by PEFT's keys, in PyTorch's layout: the inverse of `tree`, bit for bit.

    Args:
        lora: as `tree` returns it.
        network, config: which network, and its sizes.
        name_of: name of the adapter, or the name for each layer of diffusers.
    """
    by_path = {place.path: (layer, place) for layer, place in places(network, config).items()}
    state: dict[str, np.ndarray] = {}
    for path, factors in adapted_layers(lora).items():
        layer, place = by_path[path]
        name = name_of if isinstance(name_of, str) else name_of[layer]
        a, b = np.asarray(factors["a"]), np.asarray(factors["b"])
        small = POINTWISE if place.layout is CONV else DENSE
        state[f"{layer}.lora_A.{name}.weight"] = np.ascontiguousarray(place.layout.to_torch(a))
        state[f"{layer}.lora_B.{name}.weight"] = np.ascontiguousarray(small.to_torch(b))
    return state


def _named(key: str, tables: Mapping[str, Mapping[str, Place]]) -> Key | None:
    """What a key names; None if there is no such layer."""
    match = next(filter(None, (re.fullmatch(name, key) for name in NAMES)), None)
    if match is None:
        return None
    parts = match.groupdict()
    network, layer = _network(parts["layer"])
    if parts.get("part"):
        layer += f".{parts['part']}" + (".0" if parts["part"] == "to_out" else "")
    layer = _dotted(layer, tables.get(network, {}))
    if layer is None:
        return None
    return Key(network, layer, parts.get("adapter") or PLAIN, ROLES[parts["role"]])


def _network(layer: str) -> tuple[str, str]:
    for network, prefixes in NETWORKS.items():
        for prefix in prefixes:
            if layer.startswith(prefix):
                return network, layer.removeprefix(prefix)
    return "unet", layer


def _dotted(layer: str, table: Mapping[str, Place]) -> str | None:
    """The layer's name in the table; kohya writes "_" for "."."""
    if layer in table:
        return layer
    return next((name for name in table if name.replace(".", "_") == layer), None)


def _flax(a: np.ndarray, layout: Layout) -> np.ndarray:
    """A in Flax's layout. Files may store it as a 1x1 convolution where our layer is dense."""
    if layout is DENSE and a.ndim == 4:
        layout = POINTWISE
    return layout.to_flax(a)


def _array(value: Shaped) -> np.ndarray:
    return np.asarray(value).astype(np.float32, copy=False)
