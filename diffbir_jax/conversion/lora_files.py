"""What a LoRA file adds to the kernels of a model's networks: a file of any origin, or of factors of ours."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffbir_jax.console.errors import MissingFileError
from diffbir_jax.conversion.engine import raise_all
from diffbir_jax.conversion.files import read_all
from diffbir_jax.conversion.kinds import kind_of
from diffbir_jax.conversion.lora import Adapter, Sizes, adapters, deltas
from diffbir_jax.conversion.published import method_of
from diffbir_jax.conversion.stored import CheckpointError
from diffbir_jax.files.trees import Params
from diffbir_jax.models.lora import adapted_layers, product
from diffbir_jax.weights.safetensors import load_tree, read_metadata

# `family` in the header of files of factors: what diffbir convert keeps as factors, and what training exports.
LORA = "lora"


class Change(NamedTuple):
    """What is added to one kernel.

    Attributes:
        network: its name.
        path: of the kernel, joined with "/".
        index: of a block that is stacked with others, else None.
        delta: float32, of the kernel's (or block's) shape.
    """

    network: str
    path: str
    index: int | None
    delta: np.ndarray


def changes(path: Path, configs: Mapping[str, Sizes], scale: float = 1.0) -> Iterator[Change]:
    """Yield what a LoRA file adds, one kernel at a time.

    Args:
        path: a file by the names of PEFT, diffusers or kohya, or of factors of ours.
        configs: sizes of the networks that may be adapted, by "unet", "control", "vae" and "text".
        scale: factor on the file's own scale, which is alpha / rank; alpha is 8 where the file has none.

    Raises:
        CheckpointError: the file is no LoRA.
        ConversionError: it is of other networks; all problems are listed.
        OSError: it cannot be read.
    """
    if not path.exists():
        raise MissingFileError(f"no LoRA at {path}: give a .safetensors file, FILE or FILE:SCALE")
    if kind_of(path) == "safetensors" and read_metadata(path).get("family") == LORA:
        yield from _kept(load_tree(path), scale)
        return
    state = read_all(path)
    method = method_of(state)
    if method is None or method.trained:
        what = "no LoRA" if method is None else f"{method.title}, which is more than a LoRA"
        raise CheckpointError(f"{path} is {what}: give a LoRA, or convert it by diffbir convert")
    found = adapters(state, configs)
    raise_all("the LoRA is damaged", [problem for adapter in found for problem in _unfit(adapter)])
    for adapter in found:
        for name, layer in adapter.layers.items():
            rank = layer["b"].shape[1]
            own = 1.0 if "alpha" in layer or method.alpha is None else method.alpha / rank
            one = type(adapter)(adapter.network, adapter.name, {name: layer})
            for kernel, index, delta in deltas(one, configs[adapter.network], scale * own):
                yield Change(adapter.network, kernel, index, delta)


def _unfit(adapter: Adapter) -> Iterator[str]:
    """Yield a line per layer whose factors have no product."""
    for name, layer in adapter.layers.items():
        a, b = layer["a"].shape, layer["b"].shape
        if {len(a), len(b)} - {2, 4} or a[0] != b[1] or b[2:] not in ((), (1, 1)) or 0 in (*a, *b):
            yield f"the factors of {name} do not fit: {tuple(a)} and {tuple(b)}"


def _kept(networks: Mapping[str, Params], scale: float) -> Iterator[Change]:
    """Factors by the paths of our own networks."""
    try:
        for network, tree in networks.items():
            for path, layer in adapted_layers(tree).items():
                delta = np.asarray(product(layer, scale), np.float32)
                yield Change(network, f"{path}/kernel", None, delta)
    except (AttributeError, TypeError) as error:
        raise CheckpointError(f"the LoRA is damaged: {error}") from None
