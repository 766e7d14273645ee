"""LPIPS (Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", 2018), version 0.1.

Features of an ImageNet classifier are scaled to unit length over channels. Their squared differences are weighted by
channel, summed over channels, averaged over pixels and added up over stages. It serves evaluation as a metric and
training as a loss.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from diffbir_jax.models.apply import Params, abstract, apply
from diffbir_jax.models.backbones import VGG16, AlexNet

Backbone = AlexNet | VGG16
# ImageNet's mean and deviation as LPIPS rounds them, for images in [-1, 1].
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


def lpips_shapes(net: Backbone) -> Params:
    """Return shapes and dtypes of LPIPS's parameters: `net`'s as "features", (C,) of each stage as "linear<i>"."""
    image = jax.ShapeDtypeStruct((1, net.SIDE, net.SIDE, 3), jnp.float32)
    linear = {f"linear{i}": jax.ShapeDtypeStruct((c,), jnp.float32) for i, c in enumerate(net.CHANNELS)}
    return {"features": abstract(net, image), **linear}


def unit_features(net: Backbone, params: Params, images: Array) -> list[Array]:
    """Return the features of all stages, scaled to unit length over channels.

    Args:
        net: the network that computes the features.
        params: in the structure of `lpips_shapes`.
        images: (B, H, W, 3) in [-1, 1], float32, H and W at least `net.SIDE`.

    Returns:
        Five arrays (B, h, w, C) float32; zero if all channels are zero.
    """
    shift, scale = (jnp.asarray(x, jnp.float32).reshape(1, 1, 1, 3) for x in (SHIFT, SCALE))
    features = apply(net, params["features"], (images - shift) / scale)
    return [_unit(feature.astype(jnp.float32)) for feature in features]


def feature_distance(params: Params, a: Sequence[Array], b: Sequence[Array]) -> Array:
    """Return the weighted distance of two sets of `unit_features`.

    Args:
        params: in the structure of `lpips_shapes`.
        a: features of B images.
        b: features of B other images, with the same shapes.

    Returns:
        (B,) float32, 0 for equal images, about 1 for unrelated ones.
    """
    distance = jnp.zeros(len(a[0]), jnp.float32)
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        # The channel weights are linear, so they can follow the mean over pixels: far fewer products.
        distance += jnp.mean(jnp.square(x - y), (1, 2)) @ params[f"linear{i}"]
    return distance


def _unit(feature: Array) -> Array:
    squares = jnp.sum(jnp.square(feature), -1, keepdims=True)
    # The square root has no finite derivative at 0; the inner `where` keeps 0 out of the gradient.
    length = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)
    return feature / (length + 1e-10)
