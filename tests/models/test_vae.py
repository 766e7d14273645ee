import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.ad_checkpoint import saved_residuals

from diffbir_jax.conversion.abstract import abstract_vae
from diffbir_jax.conversion.stable_diffusion import vae_rules
from diffbir_jax.models.apply import abstract, apply
from diffbir_jax.models.bsrnet import BSRNet, BSRNetConfig
from diffbir_jax.models.vae import AutoencoderKL, VAEConfig
from tests.draws import normal, uniform
from tests.models.reference import VAE, away_from_zero, filled, load, recomputed, relative_error


@pytest.fixture(scope="module")
def params():
    return filled("vae", vae_rules(VAE), abstract_vae(VAE))


@pytest.fixture(scope="module")
def golden():
    return load("vae_small")


def run(params, x, method, dtype=jnp.float32):
    return jax.jit(AutoencoderKL(VAE, dtype).apply, static_argnames="method")(
        {"params": params}, x, method=method
    )


def test_encoder_parity(params, golden):
    mean, logvar = run(params, golden["image"], "encode")
    assert relative_error(mean, golden["moments_mean"]) <= 1e-4
    assert relative_error(logvar, golden["moments_logvar"]) <= 1e-4


def test_decoder_parity(params, golden):
    assert relative_error(run(params, golden["latent"], "decode"), golden["decoded"]) <= 1e-4


def test_bfloat16_stays_close(params, golden):
    decoded = run(params, golden["latent"], "decode", jnp.bfloat16)
    assert decoded.dtype == jnp.float32
    assert 1e-5 < relative_error(decoded, golden["decoded"]) < 0.05


SMALL = VAEConfig(ch=16, ch_mult=(1, 2), num_res_blocks=1, z_channels=3, embed_dim=5, patch_size=2)


@pytest.mark.slow
def test_patches_train():
    """Folded pixels multiply the downsampling; every parameter receives a gradient."""
    vae = AutoencoderKL(SMALL)
    image = uniform(0, (2, 12, 8, 3), -1.0)
    params = away_from_zero(abstract_vae(SMALL))

    def loss(params):
        mean, logvar = vae.apply({"params": params}, image, method="encode")
        assert mean.shape == logvar.shape == (2, 3, 2, 5)
        z = mean + jnp.exp(logvar / 2)
        return jnp.square(vae.apply({"params": params}, z, method="decode") - image).mean()

    assert SMALL.downsample == 4
    for path, gradient in jax.tree.leaves_with_path(jax.jit(jax.grad(loss))(params)):
        # A bias on all keys shifts a row of scores by a constant, which softmax ignores.
        assert "['k']['bias']" in jax.tree_util.keystr(path) or jnp.abs(gradient).max() > 0, path


def test_without_attention():
    assert "attention" in abstract_vae(SMALL)["decoder"]["mid"]
    plain = abstract_vae(dataclasses.replace(SMALL, mid_attention=False))
    assert plain["decoder"]["mid"].keys() == plain["encoder"]["mid"].keys() == {"block_1", "block_2"}


def test_rematerialisation_can_be_chosen():
    def loss(params, vae):
        return vae.apply({"params": params}, jnp.zeros((1, 4, 4, 3))).sum()

    params = abstract_vae(SMALL)
    assert recomputed(lambda p: loss(p, AutoencoderKL(SMALL, remat=True)), params)
    # So few pixels fit into one block of the chunked attention, which then recomputes nothing itself.
    assert not recomputed(lambda p: loss(p, AutoencoderKL(SMALL)), params)


@pytest.mark.slow
def test_the_decoder_s_gradient_does_not_depend_on_rematerialisation():
    params, z = away_from_zero(abstract_vae(SMALL)), normal(0, (1, 4, 4, SMALL.embed_dim))

    def gradient(remat):
        vae = AutoencoderKL(SMALL, remat=remat)
        return jax.jit(jax.grad(lambda z: jnp.square(apply(vae, params, z, method="decode")).mean()))(z)

    np.testing.assert_allclose(gradient(True), gradient(False), rtol=1e-4, atol=1e-6)


def test_what_the_decoder_keeps_for_the_backward_pass():
    """Of the largest images, a part's input: of all residual blocks but the first, and of the last convolution."""
    config = VAEConfig()
    z = jax.ShapeDtypeStruct((1, 8, 8, config.embed_dim), jnp.float32)

    def value(z, params):
        return apply(AutoencoderKL(config, remat=True), params, z, method="decode").sum()

    found = saved_residuals(value, z, abstract_vae(config))
    sides = [kept.shape[1] for kept, source in found if kept.ndim == 4 and "argument" not in source]
    assert [sides.count(side) for side in (64, 32, 16)] == [config.num_res_blocks + 1, 1, 1]


def test_full_size():
    vae = AutoencoderKL(VAEConfig(), jnp.bfloat16)
    image = jax.ShapeDtypeStruct((1, 512, 768, 3), jnp.float32)
    variables = {"params": abstract_vae(VAEConfig())}
    mean, _ = jax.eval_shape(lambda v, x: vae.apply(v, x, method="encode"), variables, image)
    decoded = jax.eval_shape(lambda v, z: vae.apply(v, z, method="decode"), variables, mean)
    assert mean.shape == (1, 64, 96, 4)
    assert (decoded.shape, decoded.dtype) == (image.shape, jnp.float32)


def test_size_must_fit():
    with pytest.raises(ValueError, match="12x10.*multiples of 4"):
        jax.eval_shape(AutoencoderKL(SMALL).init, jax.random.key(0), jnp.zeros((1, 12, 10, 3)))


def test_a_decoder_of_dense_blocks_is_an_rrdbnet_that_draws_in_signed_range() -> None:
    config = VAEConfig(
        ch=8, ch_mult=(1, 2), num_res_blocks=1, z_channels=6, embed_dim=6, patch_size=2, mid_attention=False,
        shortcut=True, dense_blocks=1,
    )  # fmt: skip
    vae, z = AutoencoderKL(config), normal(0, (1, 4, 3, 6))
    params = away_from_zero(abstract(vae, jnp.zeros((1, 16, 12, 3))))
    assert "to_patch" not in params
    image = jax.jit(functools.partial(apply, vae, method="decode"))(params, z)
    kernel, bias = params["post_quant_conv"]["kernel"][0, 0], params["post_quant_conv"]["bias"]
    network = jax.jit(functools.partial(apply, BSRNet(BSRNetConfig(num_blocks=1, scale=4))))
    expected = 2.0 * network(params["decoder"], np.asarray(z) @ np.asarray(kernel) + np.asarray(bias)) - 1.0
    assert image.shape == (1, 16, 12, 3)
    np.testing.assert_allclose(image, expected, rtol=1e-4, atol=1e-5)
