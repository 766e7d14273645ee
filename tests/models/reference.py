"""What the parity tests share: the small configurations of the goldens, their weights and their error measure."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffbir_jax.conversion.engine import Params, Rule, convert, torch_shapes
from diffbir_jax.models.bsrnet import BSRNetConfig
from diffbir_jax.models.clip import CLIPTextConfig
from diffbir_jax.models.scunet import SCUNetConfig
from diffbir_jax.models.swinir import SwinIRConfig
from diffbir_jax.models.unet import UNetConfig
from diffbir_jax.models.vae import VAEConfig
from tests.golden.weights import fill

GOLDEN = Path(__file__).parents[1] / "golden"
SWINIR = SwinIRConfig(embed_dim=24, num_layers=2, depth=2, num_heads=2)
BSRNET = BSRNetConfig(num_feat=16, num_blocks=2, growth=8)
SCUNET = SCUNetConfig(depths=(2,) * 7)
CLIP = CLIPTextConfig(width=64, heads=4, layers=3)
VAE = VAEConfig(ch=32)
UNET = UNetConfig(model_channels=32, num_head_channels=16, context_dim=64)


def load(name: str) -> dict[str, jax.Array]:
    """A golden file with every image or latent as (B, H, W, C)."""
    with np.load(GOLDEN / f"{name}.npz") as data:
        return {key: nhwc(x) if x.ndim == 4 else jnp.asarray(x, _narrow(x)) for key, x in data.items()}


def filled(module: str, rules: Iterable[Rule], target: Mapping[str, Any]) -> Params:
    """The goldens' weights for a network of the shapes `target`, through the conversion under test."""
    table = list(rules)
    state = {key: fill(module, key, shape) for key, shape in torch_shapes(table, target).items()}
    return convert(state, table, target)


def nhwc(x: np.ndarray) -> jax.Array:
    """(B, C, H, W) -> (B, H, W, C)."""
    return jnp.asarray(x.transpose(0, 2, 3, 1))


def relative_error(value: jax.Array, golden: jax.Array) -> float:
    """Largest difference in units of the golden's largest value."""
    assert value.shape == golden.shape
    return float(np.abs(np.asarray(value) - np.asarray(golden)).max() / np.abs(np.asarray(golden)).max())


def away_from_zero(target: Mapping[str, Any]) -> Params:
    """Some parameters of the shapes `target`, none of them zero; cheaper than compiling an initialisation."""

    def values(x: jax.ShapeDtypeStruct) -> jax.Array:
        wave = np.cos(np.arange(x.size, dtype=np.float32)).reshape(x.shape)
        return jnp.asarray(wave / np.sqrt(np.prod(x.shape[:-1]) if len(x.shape) > 1 else 4), jnp.float32)

    return jax.tree.map(values, dict(target))


def recomputed(function: Callable[..., jax.Array], *args: Any) -> bool:
    """Whether the gradient of `function` repeats convolutions of the forward pass."""
    return "remat" in str(jax.make_jaxpr(jax.grad(function))(*args))


def _narrow(x: np.ndarray) -> np.dtype:
    return np.dtype(np.int32) if x.dtype.kind == "i" else x.dtype
