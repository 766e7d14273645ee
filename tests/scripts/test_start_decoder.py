"""The decoder that starts from blocks of a restoration network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.models.apply import Params, abstract, apply
from diffbir_jax.models.bsrnet import BSRNet, BSRNetConfig
from scripts.start_decoder import BLOCKS, chosen, start

SIZES = {"num_feat": 8, "growth": 4, "scale": 4}


def random_network() -> Params:
    """Parameters of 23 blocks, without compiling them."""
    rng, network = np.random.default_rng(0), BSRNet(BSRNetConfig(num_blocks=23, **SIZES))
    like = abstract(network, jnp.zeros((1, 4, 4, 3)))
    return jax.tree.map(lambda x: jnp.asarray(0.2 * rng.standard_normal(x.shape, np.float32)), like)


@pytest.mark.slow
def test_it_draws_what_these_blocks_draw_of_the_mapped_latents() -> None:
    keys = jax.random.split(jax.random.key(0))
    z, kernel = jax.random.normal(keys[0], (1, 6, 5, 7)), jax.random.normal(keys[1], (7, 3))
    network = random_network()
    few = BSRNet(BSRNetConfig(num_blocks=len(BLOCKS), **SIZES))
    found = apply(few, start(chosen(network), np.asarray(kernel), np.zeros(3)), z)
    first_and_last = jax.tree.map(lambda x: jnp.concatenate([x[:2], x[-2:]]), network["blocks"])
    expected = apply(few, network | {"blocks": first_and_last}, jnp.einsum("bhwc,ci->bhwi", z, kernel))
    assert found.shape == (1, 24, 20, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_an_offset_is_part_of_the_first_convolution() -> None:
    """Away from the border, where the network pads its image with zeros and not with the offset."""
    key = jax.random.key(0)
    network = random_network()
    kernel, offset = np.eye(3), np.array([0.1, -0.2, 0.3])
    shifted = start(network, kernel, offset)["conv_first"]
    z = jax.random.normal(key, (1, 8, 8, 3))
    whole = jax.lax.conv_general_dilated(
        z + jnp.asarray(offset, jnp.float32)[None, None, None],
        network["conv_first"]["kernel"],
        (1, 1),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    own = jax.lax.conv_general_dilated(
        z, shifted["kernel"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(
        np.asarray(own) + np.asarray(shifted["bias"]),
        np.asarray(whole) + np.asarray(network["conv_first"]["bias"]),
        rtol=1e-5,
        atol=1e-5,
    )
