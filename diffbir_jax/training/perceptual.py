"""Perceptual distance between images, in the features of an ImageNet classifier.

It has the form of LPIPS (Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
2018), without its learned channel weights. It uses MobileNetV2 instead of VGG, which is cheap enough for training on
a CPU.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from diffbir_jax.models.apply import Params, abstract, apply
from diffbir_jax.models.mobilenet import MobileNetV2
from diffbir_jax.weights.safetensors import load_weights

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Strides 2, 4, 8, 16, 16. The two stages after them see a 64x64 crop as 2x2 cells: too coarse for texture.
STAGES = 5
MIN_SIDE = 64


def load_features(path: str | Path) -> Params:
    """Load the parameters that `scripts/convert_mobilenet.py` wrote, as a nested dict of float32 arrays.

    Raises:
        FileNotFoundError: if `path` does not exist; the message names the script.
        ValueError: if the file holds other parameters than those of `MobileNetV2`.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{path}: no such file: write it with scripts/convert_mobilenet.py of the source code"
        )
    return load_weights(path, abstract(MobileNetV2(), jnp.zeros((1, MIN_SIDE, MIN_SIDE, 3))))


def perceptual_loss(
    params: Params, a: jax.Array, b: jax.Array, *, dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """Return the perceptual distance of two batches of images.

    Features of each stage are scaled to unit length over channels; their squared differences are summed over
    channels and averaged over space, then over stages with equal weights.

    Args:
        params: parameters of `MobileNetV2`, as from `load_features`. Stages that are not used may be absent.
        a: (B, H, W, 3) in [-1, 1], sides of at least 64 pixels.
        b: the same shape and range.
        dtype: compute dtype of the network; distances are float32 always.

    Returns:
        Scalar float32, the mean over the batch: 0 for equal images, at most 4.

    Raises:
        ValueError: if the shapes differ or a side is below 64 pixels.
    """
    if a.shape != b.shape or a.ndim != 4 or min(a.shape[1:3]) < MIN_SIDE:
        raise ValueError(
            f"perceptual_loss: shapes {a.shape} and {b.shape} given; both must be (B, H, W, 3) with "
            f"H, W >= {MIN_SIDE}."
        )
    pairs = zip(unit_features(params, a, dtype), unit_features(params, b, dtype), strict=True)
    distances = [jnp.mean(jnp.sum((x - y) ** 2, axis=-1)) for x, y in pairs]
    return jnp.mean(jnp.stack(distances))


def unit_features(params: Params, image: jax.Array, dtype: DTypeLike) -> list[jax.Array]:
    """Return the features of the first `STAGES` stages, float32 and of unit length over channels.

    Args:
        params, dtype: as in `perceptual_loss`.
        image: (B, H, W, 3) in [-1, 1].
    """
    mean, std = (jnp.asarray(v, jnp.float32).reshape(1, 1, 1, 3) for v in (IMAGENET_MEAN, IMAGENET_STD))
    normalised = ((image.astype(jnp.float32) + 1) / 2 - mean) / std
    features = [f.astype(jnp.float32) for f in apply(MobileNetV2(STAGES, dtype), params, normalised)]
    # The epsilon inside the root keeps the gradient finite where all channels are zero.
    return [f * jax.lax.rsqrt(jnp.sum(f**2, axis=-1, keepdims=True) + 1e-8) for f in features]
