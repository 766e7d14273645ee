"""Presets small enough to compile in a second, with random weights: for properties that no training gives."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from diffbir_jax.models.presets import Preset
from diffbir_jax.models.restoration_unet import RestorationUNetConfig
from diffbir_jax.models.unet import UNetConfig
from diffbir_jax.models.vae import VAEConfig
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.sampling.options import Options
from diffbir_jax.weights.loading import abstract_params

MICRO = Preset(
    name="micro",
    rm=RestorationUNetConfig(unshuffle=2, channels=(8, 8), blocks=(1, 1, 1)),
    vae=VAEConfig(
        ch=8, ch_mult=(1, 1), num_res_blocks=1, scale_factor=0.5, patch_size=2, mid_attention=False
    ),
    unet=UNetConfig(
        model_channels=16,
        channel_mult=(1, 1),
        num_res_blocks=1,
        attention_levels=(),
        num_head_channels=16,
        context_dim=None,
    ),
    parameterization="v",
    zero_terminal_snr=True,
    min_side=24,
    multiple=8,
    padding="edge",
)
MICRO_TEXT = dataclasses.replace(
    MICRO, name="micro_text", unet=dataclasses.replace(MICRO.unet, context_dim=8)
)


def random_params(preset: Preset, seed: int = 0, modules: Sequence[str] | None = None) -> dict:
    """Parameters of all or some modules, away from zero, so that every path changes the result."""
    rng = np.random.default_rng(seed)

    def draw(path: tuple, like: jax.ShapeDtypeStruct) -> jax.Array:
        normal = rng.standard_normal(like.shape, np.float32)
        if len(like.shape) > 1:
            return jnp.asarray(normal / np.float32(np.sqrt(np.prod(like.shape[:-1]))))
        return jnp.asarray(np.float32(path[-1].key == "scale") + np.float32(0.1) * normal)

    return jax.tree_util.tree_map_with_path(draw, abstract_params(preset, modules))


def restorer(preset: Preset = MICRO) -> Restorer:
    """A restorer with `random_params`."""
    return Restorer(preset, random_params(preset))


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8: a random coarse pattern, enlarged, thus flat regions and edges."""
    coarse = np.random.default_rng(seed).integers(0, 256, (-(-height // 8), -(-width // 8), 3), np.uint8)
    return coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]


# The same number of steps and the same sizes in most tests: fewer programs to compile.
FEW = Options(steps=2, start=0.5)
GUIDED = dataclasses.replace(FEW, guidance_scale=1.0)


@functools.cache
def micro(text: bool = False) -> Restorer:
    preset = MICRO_TEXT if text else MICRO
    return Restorer(preset, random_params(preset))


def clean(*seeds: int) -> jax.Array:
    """Stage-1 images (B, 24, 24, 3) in [0, 1], the size that stage 1 enlarges 16x16 pixels to."""
    return jnp.asarray(np.stack([picture(24, 24, seed) for seed in seeds]), jnp.float32) / 255.0


def text(*values: float) -> tuple[jax.Array, jax.Array]:
    """Embeddings of a prompt and a negative prompt, each of one value."""
    prompt, negative = (jnp.full((1, 5, 8), value, jnp.float32) for value in values)
    return prompt, negative
