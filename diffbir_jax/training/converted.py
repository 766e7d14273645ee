"""Features of large networks for a discriminator: CLIP's ConvNeXt, as HYPIR judges by, and DINOv2.

`diffbir convert` makes their weights files of the published ones. The header states the sizes of the network.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from diffbir_jax.console.errors import UserError
from diffbir_jax.imaging.resize import resize
from diffbir_jax.models.apply import Params, abstract, apply
from diffbir_jax.models.convnext import CLIP_MEAN, CLIP_STD, ConvNeXt, ConvNeXtConfig
from diffbir_jax.models.dino import DINO, DINOConfig
from diffbir_jax.models.header import revive
from diffbir_jax.training.perceptual import IMAGENET_MEAN, IMAGENET_STD
from diffbir_jax.weights.safetensors import load_weights, read_metadata

# Side that DINO sees, a multiple of 14 and of 16.
SIDE = 224


def load_convnext(path: str | Path) -> Params:
    """Load a converted ConvNeXt, as a nested dict of float32 arrays.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds another network, or was not converted.
    """
    config = revive(ConvNeXtConfig, _sizes(path, "convnext", "CLIP's ConvNeXt"))
    return load_weights(path, abstract(ConvNeXt(config), _image(config.multiple)))


def load_dino(path: str | Path) -> Params:
    """Load a converted DINOv2 or DINO, as a nested dict of float32 arrays; errors as in `load_convnext`."""
    config = revive(DINOConfig, _sizes(path, "dino", "DINOv2"))
    return load_weights(path, abstract(DINO(config), _image(config.patch)))


def convnext(params: Params, image: jax.Array, dtype: DTypeLike) -> list[jax.Array]:
    """Features of ConvNeXt at 1/4, 1/8 and 1/16 of the sides, and CLIP's vector, as HYPIR takes them."""
    network = ConvNeXt(ConvNeXtConfig.of(params), dtype)
    return _floats(apply(network, params, _normalised(image, CLIP_MEAN, CLIP_STD)))


def dino(params: Params, image: jax.Array, dtype: DTypeLike) -> list[jax.Array]:
    """Features of DINOv2 after a third and two thirds of its blocks, and the class token.

    It sees the whole image at 224x224 pixels, averaged, since its weights are for objects of that size.
    """
    seen = resize(_normalised(image, IMAGENET_MEAN, IMAGENET_STD), (SIDE, SIDE), "area")
    return _floats(apply(DINO(DINOConfig.of(params), dtype), params, seen))


def _normalised(image: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
    """(B, H, W, 3) in [-1, 1] -> float32, as a network was trained to see it."""
    centre, scale = (jnp.asarray(v, jnp.float32).reshape(1, 1, 1, 3) for v in (mean, std))
    return ((image.astype(jnp.float32) + 1) / 2 - centre) / scale


def _floats(features: list[jax.Array]) -> list[jax.Array]:
    return [x.astype(jnp.float32) for x in features]


def _image(side: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)


def _sizes(path: str | Path, family: str, title: str) -> str:
    """The description of a network of this family in the header of its file."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file: make it of the published one with diffbir convert")
    header = read_metadata(path)
    if header.get("family") != family:
        found = header.get("family") or header.get("preset") or "none that says its name"
        raise UserError(
            f"{path} holds another network ({found}), config.critic.features needs {title}: give the file "
            f"{family}.safetensors that diffbir convert made, as config.weights.critic"
        )
    return header.get("config", "")
