"""Shapes without values."""

import jax
import jax.numpy as jnp
import pytest

from diffbir_jax.models.apply import abstract, init
from diffbir_jax.models.clip import CLIPText, CLIPTextConfig
from diffbir_jax.models.mobilenet import MobileNetV2
from diffbir_jax.models.scunet import SCUNet, SCUNetConfig
from diffbir_jax.models.srvgg import SRVGG, SRVGGConfig
from diffbir_jax.models.swinir import SwinIR, SwinIRConfig
from diffbir_jax.models.unet import UNet
from tests.micro import MICRO_TEXT

IMAGE = jnp.zeros((1, 64, 64, 3))
Z, T, CONTEXT = jnp.zeros((1, 8, 8, 4)), jnp.zeros(1, jnp.int32), jnp.zeros((1, 77, 8))
NETWORKS = {
    "SwinIR": (SwinIR(SwinIRConfig(embed_dim=8, num_layers=1, depth=2, num_heads=2, num_feat=8)), IMAGE),
    "SCUNet": (SCUNet(SCUNetConfig(dim=16, depths=(1,) * 7, head_dim=8)), IMAGE),
    "SRVGG": (SRVGG(SRVGGConfig(num_feat=8, num_conv=1)), IMAGE),
    "MobileNet": (MobileNetV2(), IMAGE),
    "CLIP": (CLIPText(CLIPTextConfig(width=8, heads=2, layers=2)), jnp.zeros((1, 77), jnp.int32)),
    "UNet": (UNet(MICRO_TEXT.unet), Z, T, CONTEXT),
    "autoencoder in 16 bits": (MICRO_TEXT.make_vae(jnp.bfloat16), IMAGE),
    "control": (MICRO_TEXT.make_control(), Z, Z, T, CONTEXT),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_are_those_of_initial_parameters(name: str) -> None:
    """Names, shapes and dtypes as Flax itself finds them, though layers take their shortest form."""
    module, *inputs = NETWORKS[name]
    expected = jax.eval_shape(lambda: init(module, jax.random.key(0), *inputs))
    assert abstract(module, *inputs) == expected
