"""Shapes without values are those of the networks with values, though layers take another form for them."""

import jax
import jax.numpy as jnp
import pytest

from diffbir_jax.models.apply import Module, abstract, init
from tests.micro import MICRO

IMAGE, LATENT = jnp.zeros((2, 32, 48, 3)), jnp.zeros((2, 4, 6, 4))
STEPS = jnp.zeros(2, jnp.int32)
NETWORKS = {
    "rm": (MICRO.make_rm, (IMAGE,)),
    "vae": (MICRO.make_vae, (IMAGE,)),
    "unet": (MICRO.make_unet, (LATENT, STEPS)),
    "control": (MICRO.make_control, (LATENT, LATENT, STEPS)),
}


@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_are_those_of_values(name: str, dtype: str) -> None:
    make, inputs = NETWORKS[name]
    module: Module = make(dtype=dtype)
    wanted = jax.eval_shape(lambda: init(module, jax.random.key(0), *inputs))
    assert abstract(module, *inputs) == wanted
