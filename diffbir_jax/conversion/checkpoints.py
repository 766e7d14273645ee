"""From a published checkpoint, read as a dict of arrays, to the parameters of our networks."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffbir_jax.conversion.engine import Params, convert
from diffbir_jax.conversion.tables import controlnet_rules, swinir_rules, unet_rules, vae_rules
from diffbir_jax.models.controlnet import IRControlNet
from diffbir_jax.models.swinir import SwinIR, SwinIRConfig
from diffbir_jax.models.unet import UNet, UNetConfig
from diffbir_jax.models.vae import AutoencoderKL, VAEConfig

# Constants of the architecture that PyTorch stores as buffers.
SWINIR_BUFFERS = (r".*\.relative_position_index", r".*\.attn_mask")
# What a Stable Diffusion file holds beside UNet and VAE: schedule tables, averaged copies, the text encoder.
STABLE_DIFFUSION_REST = (
    r"betas|logvar|lvlb_weights|posterior_\w+|(\w+_)?alphas_cumprod(_prev)?",
    r"(model_ema|cond_stage_model)\..*",
)


def convert_swinir(state: Mapping[str, Any], config: SwinIRConfig) -> Params:
    """Parameters of `SwinIR`.

    Args:
        state: the checkpoint; it may be wrapped in "state_dict" and prefixed with "module.".
        config: sizes of the network.

    Returns:
        nested dict of float32 arrays.

    Raises:
        ConversionError: keys are missing, unexpected or misshapen.
    """
    return convert(unwrap(state), list(swinir_rules(config)), abstract_swinir(config), SWINIR_BUFFERS)


def convert_controlnet(state: Mapping[str, Any], config: UNetConfig) -> Params:
    """Parameters of `IRControlNet` from a DiffBIR checkpoint; arguments and errors as in `convert_swinir`."""
    return convert(unwrap(state), list(controlnet_rules(config)), abstract_controlnet(config))


def convert_stable_diffusion(state: Mapping[str, Any], unet: UNetConfig, vae: VAEConfig) -> dict[str, Params]:
    """Parameters {"unet": ..., "vae": ...} from a whole Stable Diffusion file, the text encoder left aside.

    Args:
        state: the checkpoint; it may be wrapped in "state_dict" and prefixed with "module.".
        unet: sizes of the UNet.
        vae: sizes of the autoencoder.

    Returns:
        nested dicts of float32 arrays.

    Raises:
        ConversionError: keys are missing, unexpected or misshapen.
    """
    table = [
        *(rule.within("model.diffusion_model.", "unet/") for rule in unet_rules(unet)),
        *(rule.within("first_stage_model.", "vae/") for rule in vae_rules(vae)),
    ]
    target = {"unet": abstract_unet(unet), "vae": abstract_vae(vae)}
    return convert(unwrap(state), table, target, STABLE_DIFFUSION_REST)


def unwrap(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The bare state dict: without an outer "state_dict" and without a "module." before every key."""
    state = state.get("state_dict", state)
    if all(key.startswith("module.") for key in state):
        return {key.removeprefix("module."): x for key, x in state.items()}
    return dict(state)


def abstract_swinir(config: SwinIRConfig) -> Params:
    """Shapes of `SwinIR`'s parameters, as `jax.ShapeDtypeStruct`s; no memory is used."""
    return _abstract(SwinIR(config), _pixels(config.multiple, 3))


def abstract_vae(config: VAEConfig) -> Params:
    """Shapes of `AutoencoderKL`'s parameters."""
    return _abstract(AutoencoderKL(config), _pixels(config.downsample, config.in_channels))


def abstract_unet(config: UNetConfig) -> Params:
    """Shapes of `UNet`'s parameters."""
    return _abstract(UNet(config), _pixels(config.downsample, config.in_channels), *_conditions(config))


def abstract_controlnet(config: UNetConfig, hint_channels: int = 4) -> Params:
    """Shapes of `IRControlNet`'s parameters."""
    x, hint = (_pixels(config.downsample, channels) for channels in (config.in_channels, hint_channels))
    return _abstract(IRControlNet(config, hint_channels), x, hint, *_conditions(config))


def _abstract(module: Any, *inputs: Any) -> Params:
    return jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]


def _pixels(side: int, channels: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)


def _conditions(config: UNetConfig) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct | None]:
    """Timestep and context of one evaluation."""
    t = jax.ShapeDtypeStruct((1,), jnp.int32)
    if config.context_dim is None:
        return t, None
    return t, jax.ShapeDtypeStruct((1, 77, config.context_dim), jnp.float32)
