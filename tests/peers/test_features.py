"""Features that a discriminator judges, and their gradients to the image, against transformers' networks."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import (
    ConvNextConfig,
    ConvNextModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
)

from diffbir_jax.conversion.engine import convert
from diffbir_jax.conversion.features import CONVNEXT, DINO_VIT
from diffbir_jax.models.convnext import ConvNeXt, ConvNeXtConfig
from diffbir_jax.models.dino import DINO, DINOConfig
from tests.golden.weights import fill
from tests.peers.compare import nchw, random

TOLERANCE = 1e-5  # of the largest value
CONVNEXT_NAMES = {
    "embeddings.patch_embeddings.": "trunk.stem.0.",
    "embeddings.layernorm.": "trunk.stem.1.",
    "encoder.stages.": "trunk.stages.",
    "downsampling_layer.": "downsample.",
    ".layers.": ".blocks.",
    "layer_scale_parameter": "gamma",
    "dwconv": "conv_dw",
    ".layernorm.": ".norm.",
    "pwconv": "mlp.fc",
}
DINO_NAMES = {
    "embeddings.cls_token": "cls_token",
    "embeddings.mask_token": "mask_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.register_tokens": "register_tokens",
    "embeddings.patch_embeddings.projection.": "patch_embed.proj.",
    "encoder.layer.": "blocks.",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    ".attention.o_proj.": ".attn.proj.",
    "layernorm.": "norm.",
}


def filled(peer: torch.nn.Module) -> dict[str, np.ndarray]:
    """Give the peer weights that depend on their keys, and return them."""
    state = {key: fill("features", key, tuple(x.shape)) for key, x in peer.state_dict().items()}
    # Scales of branches are small at first; here they are large enough that a wrong branch shows.
    state |= {key: 0.5 + x for key, x in state.items() if "lambda1" in key or "layer_scale_parameter" in key}
    peer.load_state_dict({key: torch.from_numpy(x) for key, x in state.items()})
    return state


def renamed(state: Mapping[str, np.ndarray], names: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The published names of the peer's weights."""
    found = {}
    for key, x in state.items():
        for old, new in names.items():
            key = key.replace(old, new)
        found[key] = x
    return found


def assert_same(ours: Any, params: Any, image: np.ndarray, peer: Any) -> None:
    """Compare features, and the gradient of a sum of features with weights of either sign."""
    x = nchw(image).requires_grad_()
    wanted = peer(x)
    shapes = [tuple(y.shape) for y in wanted]
    weights = [fill("cotangent", str(i), shape) for i, shape in enumerate(shapes)]
    sum((y * torch.from_numpy(w)).sum() for y, w in zip(wanted, weights, strict=True)).backward()

    def total(image: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        features = ours.apply({"params": params}, image)
        last = [jnp.asarray(w.transpose(0, 2, 3, 1) if w.ndim == 4 else w) for w in weights]
        return sum(jnp.sum(y * w) for y, w in zip(features, last, strict=True)), features

    gradient, features = jax.jit(jax.grad(total, has_aux=True))(jnp.asarray(image))
    for y, target in [*zip(features, wanted, strict=True), (gradient, x.grad)]:
        target = target.detach().numpy()
        target = target.transpose(0, 2, 3, 1) if target.ndim == 4 else target
        assert y.shape == target.shape
        error = np.abs(np.asarray(y) - target).max() / np.abs(target).max()
        assert error <= TOLERANCE, f"relative error {error:.2e}"
        print(f"relative error {error:.2e}")


def test_convnext_is_that_of_transformers() -> None:
    config = ConvNeXtConfig((1, 2, 3, 1), (8, 16, 24, 32), 12)
    peer = ConvNextModel(ConvNextConfig(hidden_sizes=list(config.widths), depths=list(config.depths))).eval()
    for layer in peer.modules():
        if isinstance(layer, torch.nn.LayerNorm):
            layer.eps = 1e-5  # as timm's ConvNeXt-XXLarge
    projection = fill("features", "projection", (config.embedding, config.widths[-1]))
    state = renamed(filled(peer), CONVNEXT_NAMES)
    state |= {f"trunk.head.norm.{end}": state.pop(f"layernorm.{end}") for end in ("weight", "bias")}
    state["head.proj.weight"] = projection
    params = convert(state, list(CONVNEXT.rules(config)), CONVNEXT.abstract(config))

    def features(x: torch.Tensor) -> list[torch.Tensor]:
        out = peer(x, output_hidden_states=True)
        return [*out.hidden_states[1:4], out.pooler_output @ torch.from_numpy(projection).T]

    # Sides that are no multiples of 32: what is left over is cut off at every stage.
    assert_same(ConvNeXt(config), params, random(2, 70, 84, 3), features)


@pytest.mark.parametrize("registers", [0, 4])
def test_dino_is_that_of_transformers(registers: int) -> None:
    config = DINOConfig(128, 6, 14, 5, registers)
    sizes = {"hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 2, "image_size": 70}
    if registers:
        more = Dinov2WithRegistersConfig(**sizes, patch_size=14, num_register_tokens=registers)
        peer = Dinov2WithRegistersModel(more).eval()
    else:
        peer = Dinov2Model(Dinov2Config(**sizes, patch_size=14)).eval()
    state = renamed(filled(peer), DINO_NAMES)
    for i in range(config.depth):
        for end in ("weight", "bias"):
            parts = [state.pop(f"blocks.{i}.attention.{x}_proj.{end}") for x in "qkv"]
            state[f"blocks.{i}.attn.qkv.{end}"] = np.concatenate(parts)
    params = convert(state, list(DINO_VIT.rules(config)), DINO_VIT.abstract(config), ["mask_token"])

    def features(x: torch.Tensor) -> list[torch.Tensor]:
        out = peer(x, output_hidden_states=True)
        maps = [out.hidden_states[i][:, 1 + registers :] for i in (2, 4)]
        rows, columns = x.shape[2] // 14, x.shape[3] // 14
        return [y.mT.reshape(len(x), -1, rows, columns) for y in maps] + [out.last_hidden_state[:, 0]]

    # More rows and fewer columns than have trained positions.
    assert_same(DINO(config), params, random(2, 98, 42, 3), features)
