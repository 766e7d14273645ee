"""Shapes of our networks' parameters. Every conversion is checked against them; they need no memory."""

import functools

import jax
import jax.numpy as jnp

from diffbir_jax.conversion.engine import Params
from diffbir_jax.files.trees import Tree
from diffbir_jax.models.apply import Module, abstract
from diffbir_jax.models.bsrnet import BSRNet, BSRNetConfig
from diffbir_jax.models.clip import CLIPText, CLIPTextConfig
from diffbir_jax.models.controlnet import IRControlNet
from diffbir_jax.models.scunet import SCUNet, SCUNetConfig
from diffbir_jax.models.srvgg import SRVGG, SRVGGConfig
from diffbir_jax.models.swinir import SwinIR, SwinIRConfig
from diffbir_jax.models.unet import UNet, UNetConfig
from diffbir_jax.models.vae import AutoencoderKL, VAEConfig


def abstract_swinir(config: SwinIRConfig) -> Params:
    """Shapes of `SwinIR`'s parameters, as `jax.ShapeDtypeStruct`s."""
    return _shapes(SwinIR(config), _pixels(config.multiple, 3))


def abstract_bsrnet(config: BSRNetConfig) -> Params:
    """Shapes of `BSRNet`'s parameters."""
    return _shapes(BSRNet(config), _pixels(config.multiple, 3))


def abstract_srvgg(config: SRVGGConfig) -> Params:
    """Shapes of `SRVGG`'s parameters."""
    return _shapes(SRVGG(config), _pixels(config.multiple, 3))


def abstract_scunet(config: SCUNetConfig) -> Params:
    """Shapes of `SCUNet`'s parameters."""
    return _shapes(SCUNet(config), _pixels(config.multiple, 3))


def abstract_clip(config: CLIPTextConfig) -> Params:
    """Shapes of `CLIPText`'s parameters."""
    return _shapes(CLIPText(config), jax.ShapeDtypeStruct((1, config.tokens), jnp.int32))


def abstract_vae(config: VAEConfig) -> Params:
    """Shapes of `AutoencoderKL`'s parameters."""
    return _shapes(AutoencoderKL(config), _pixels(config.downsample, config.in_channels))


def abstract_unet(config: UNetConfig) -> Params:
    """Shapes of `UNet`'s parameters."""
    return _shapes(UNet(config), _pixels(config.downsample, config.in_channels), *_conditions(config))


def abstract_controlnet(config: UNetConfig, hint_channels: int = 4) -> Params:
    """Shapes of `IRControlNet`'s parameters."""
    x, hint = (_pixels(config.downsample, channels) for channels in (config.in_channels, hint_channels))
    return _shapes(IRControlNet(config, hint_channels), x, hint, *_conditions(config))


def _shapes(module: Module, *inputs: Tree) -> Params:
    return jax.tree.map(lambda x: x, _traced(module, *inputs))  # a copy: the caller may change it


# Tracing a large network takes a second, and tests need the same network many times.
_traced = functools.cache(abstract)


def _pixels(side: int, channels: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)


def _conditions(config: UNetConfig) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct | None]:
    """Timestep and context of one evaluation."""
    t = jax.ShapeDtypeStruct((1,), jnp.int32)
    if config.context_dim is None:
        return t, None
    # CLIP's sequence length; the number of tokens does not change any parameter.
    return t, jax.ShapeDtypeStruct((1, 77, config.context_dim), jnp.float32)
