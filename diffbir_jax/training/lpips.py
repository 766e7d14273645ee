"""LPIPS as a loss, with the same network and channel weights as in the evaluation."""

from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from diffbir_jax.console.errors import UserError
from diffbir_jax.models.apply import Params
from diffbir_jax.models.backbones import VGG16, AlexNet
from diffbir_jax.models.lpips import Backbone, feature_distance, lpips_shapes, unit_features
from diffbir_jax.weights.safetensors import load_weights

Net = Literal["alex", "vgg"]
NETS: dict[Net, type[Backbone]] = {"alex": AlexNet, "vgg": VGG16}


def load_lpips(path: str | Path, *, net: Net = "vgg") -> Params:
    """Load the parameters that `scripts/convert_metrics.py` wrote, as a nested dict of float32 arrays.

    Args:
        path: lpips_vgg.safetensors or lpips_alex.safetensors.
        net: "vgg" or "alex", the network that the file must hold.

    Raises:
        FileNotFoundError: there is no such file; the message names the script.
        ValueError: no such network, or the file holds other parameters.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{path}: no such file: write it with scripts/convert_metrics.py of the source code"
        )
    return load_weights(path, lpips_shapes(_network(net)))


def lpips_loss(
    params: Params, a: jax.Array, b: jax.Array, *, net: Net = "vgg", dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """Return the mean LPIPS distance of two batches of images (`models.lpips`), differentiable in both.

    Each batch has its own pass, so the pass of a constant target stores no activations for the gradient.

    Args:
        params: as from `load_lpips`; of any float dtype.
        a: (B, H, W, 3) in [-1, 1], H and W at least 16 ("vgg") or 31 ("alex").
        b: the same shape and range.
        net: "vgg" (VGG16) or "alex" (AlexNet).
        dtype: compute dtype of the network; lengths and distances are float32 always.

    Returns:
        Scalar float32, the mean over the batch: 0 for equal images, about 1 for unrelated ones.

    Raises:
        ValueError: no such network, the shapes differ, or a side is too short.
    """
    network = _network(net, dtype)
    if a.shape != b.shape or a.ndim != 4 or min(a.shape[1:3]) < network.SIDE:
        raise ValueError(
            f"lpips_loss: shapes {a.shape} and {b.shape} given; both must be (B, H, W, 3) with "
            f"H, W >= {network.SIDE} for net={net!r}."
        )
    x, y = (unit_features(network, params, image.astype(jnp.float32)) for image in (a, b))
    return jnp.mean(feature_distance(params, x, y))


def _network(net: Net, dtype: DTypeLike = jnp.float32) -> Backbone:
    if net not in NETS:
        raise UserError(f"net is {net!r}, allowed are {', '.join(NETS)}")
    return NETS[net](dtype=dtype)
