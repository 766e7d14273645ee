"""UNet and IRControlNet together, as they are used."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.conversion.abstract import abstract_controlnet, abstract_unet
from diffbir_jax.conversion.stable_diffusion import controlnet_rules, unet_rules
from diffbir_jax.models.controlnet import IRControlNet, init_from_unet
from diffbir_jax.models.unet import UNet, UNetConfig
from tests.draws import normal
from tests.models.reference import UNET, away_from_zero, filled, load, recomputed, relative_error

TINY = UNetConfig(
    in_channels=3,
    out_channels=2,
    model_channels=16,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_levels=(1,),
    num_head_channels=8,
    context_dim=None,
)
WORDY = dataclasses.replace(TINY, context_dim=8)
# A gradient takes longest to compile, and one level has all kinds of layers but those that change the size.
ONE_LEVEL = dataclasses.replace(TINY, channel_mult=(1,), attention_levels=(0,))


@pytest.fixture(scope="module")
def golden():
    return load("cldm_small")


@pytest.fixture(scope="module")
def unet_params():
    return filled("unet", unet_rules(UNET), abstract_unet(UNET))


@pytest.fixture(scope="module")
def controls(golden):
    params = filled("controlnet", controlnet_rules(UNET), abstract_controlnet(UNET))
    return jax.jit(IRControlNet(UNET).apply)({"params": params}, *inputs(golden, "hint"))


def inputs(golden, *hint):
    return [golden[key] for key in ("latent", *hint, "timesteps", "context")]


@pytest.fixture(scope="module")
def run(unet_params, golden):
    """The large UNet as a function of the controls."""
    unet = jax.jit(UNet(UNET).apply)
    return lambda controls: unet({"params": unet_params}, *inputs(golden), controls)


def test_control_parity(controls, golden):
    assert len(controls) == 13
    errors = [relative_error(control, golden[f"control_{i}"]) for i, control in enumerate(controls)]
    assert max(errors) <= 1e-4


def test_unet_parity(run, controls, golden):
    """Controls of zero spare a second compilation; below, a test compares them with none at all."""
    zeros = jax.tree.map(jnp.zeros_like, controls)
    assert relative_error(run(zeros), golden["unet_out"]) <= 1e-4


def test_controlled_parity(run, controls, golden):
    assert relative_error(run(controls), golden["controlled_out"]) <= 1e-4


@pytest.fixture(scope="module")
def tiny():
    """Parameters of a UNet without text, none of them zero, and inputs."""
    x = normal(0, (2, 4, 6, 3))
    t = jnp.array([3.0, 700.0])
    return away_from_zero(abstract_unet(TINY)), x, t


def test_control_starts_as_a_copy_that_changes_nothing(tiny):
    params, x, t = tiny
    control = IRControlNet(TINY, hint_channels=5)
    hint = jnp.ones((*x.shape[:3], 5))
    copy = init_from_unet(params, hint_channels=5)
    fresh = jax.eval_shape(control.init, jax.random.key(0), x, hint, t)["params"]
    assert jax.tree.map(jnp.shape, copy) == jax.tree.map(jnp.shape, fresh)

    @jax.jit
    def run(hint):
        collect = {"capture_intermediates": True, "mutable": "intermediates"}
        controls, state = control.apply({"params": copy}, x, hint, t, **collect)
        unet = {"params": params}
        return controls, state, UNet(TINY).apply(unet, x, t, None, controls), UNet(TINY).apply(unet, x, t)

    controls, state, controlled, plain = run(hint)
    assert not any(jnp.any(y) for y in controls)
    np.testing.assert_array_equal(controlled, plain)
    # The hint's weights are zero, so the encoder does not see it yet.
    for features, other in zip(jax.tree.leaves(state), jax.tree.leaves(run(-hint)[1])):
        np.testing.assert_array_equal(features, other)


@pytest.mark.slow
def test_control_learns_from_its_first_step(tiny):
    _, x, t = tiny
    params = away_from_zero(abstract_unet(ONE_LEVEL))
    copy = init_from_unet(params, hint_channels=3)

    @jax.jit
    @jax.grad
    def gradient(copy):
        control = IRControlNet(ONE_LEVEL, 3).apply({"params": copy}, x, x, t)
        return jnp.square(UNet(ONE_LEVEL).apply({"params": params}, x, t, None, control)).mean()

    first = gradient(copy)
    assert all(jnp.abs(g["kernel"]).max() > 0 for name, g in first.items() if name.startswith("zero_conv"))
    second = gradient(jax.tree.map(lambda p, g: p - 0.1 * g, copy, first))
    assert jnp.abs(second["encoder"]["conv_in"]["kernel"][:, :, 3:]).max() > 0


def test_init_does_not_alter_the_unet(tiny):
    kernel = tiny[0]["encoder"]["conv_in"]["kernel"]
    copy = init_from_unet(tiny[0])
    assert tiny[0]["encoder"]["conv_in"]["kernel"] is kernel
    assert (copy["encoder"]["conv_in"]["kernel"][:, :, :3] == kernel).all()


def test_without_text_there_is_no_cross_attention(tiny):
    params, x, t = tiny
    block = params["encoder"]["down_1_stage_0"]["transformer"]["block_0"]
    assert "cross_attention" not in block
    assert jax.eval_shape(UNet(TINY).apply, {"params": params}, x, t).shape == (2, 4, 6, 2)
    with pytest.raises(ValueError, match="context has 7 channels; this configuration takes None"):
        UNet(TINY).apply({"params": params}, x, t, jnp.ones((2, 5, 7)))


@pytest.fixture(scope="module")
def wordy():
    """Parameters of a small UNet and IRControlNet with text, and inputs: two latents with two texts each."""
    shapes = [(2, 4, 4, 3), (2, 4, 4, 4), (4, 5, 8)]
    x, hint, texts = (normal(i, shape) for i, shape in enumerate(shapes))
    t, unet, control = jnp.array([700.0, 3.0]), UNet(WORDY), IRControlNet(WORDY)
    params = [
        away_from_zero(jax.eval_shape(unet.init, jax.random.key(0), x, t, texts[:2])["params"]),
        away_from_zero(jax.eval_shape(control.init, jax.random.key(0), x, hint, t, texts[:2])["params"]),
    ]
    return params, (x, hint, t), texts


def controlled(params, x, hint, t, texts, dtype=jnp.float32):
    controls = IRControlNet(WORDY, dtype=dtype).apply({"params": params[1]}, x, hint, t, texts)
    return UNet(WORDY, dtype).apply({"params": params[0]}, x, t, texts, controls)


@pytest.fixture(scope="module")
def shared(wordy):
    """The program for two texts per latent."""
    params, once, texts = wordy
    return jax.jit(controlled).lower(params, *once, texts).compile()


@pytest.mark.slow
def test_bfloat16_stays_close(wordy, shared):
    """Of all kinds of layers, in a network that compiles soon; in float32 they are held to the goldens above."""
    params, once, texts = wordy
    half = jax.jit(functools.partial(controlled, dtype=jnp.bfloat16))(params, *once, texts)
    assert half.dtype == jnp.float32
    assert 1e-5 < relative_error(half, shared(params, *once, texts)) < 0.05


@pytest.mark.slow
def test_several_texts_share_what_does_not_depend_on_them(wordy, shared):
    """Two texts for each of two latents give what copies of the latents give, in fewer operations."""
    params, once, texts = wordy
    twice = [jnp.repeat(a, 2, axis=0) for a in once]
    copied = jax.jit(controlled).lower(params, *twice, texts).compile()
    together = shared(params, *once, texts)
    assert together.shape == (4, 4, 4, 2)
    assert jnp.abs(together[0] - together[2]).max() > 1e-2 and jnp.abs(together[0] - together[1]).max() > 1e-4
    np.testing.assert_allclose(together, copied(params, *twice, texts), atol=1e-5)
    flops, at_most = (compiled.cost_analysis()["flops"] for compiled in (shared, copied))  # pyright: ignore[reportOptionalSubscript]
    assert flops < 0.95 * at_most
    with pytest.raises(ValueError, match="3 contexts given for 2 latents; give as many for each"):
        jax.eval_shape(controlled, params, *once, jnp.zeros((3, 5, 8)))


@pytest.mark.slow
def test_rematerialisation_can_be_chosen(tiny):
    _, x, t = tiny

    def loss(params, unet):
        return unet.apply({"params": params}, x, t).sum()

    # So few pixels fit into one block of the chunked attention, which then recomputes nothing itself.
    assert recomputed(lambda p: loss(p, UNet(TINY, remat=True)), abstract_unet(TINY))
    assert not recomputed(lambda p: loss(p, UNet(TINY)), abstract_unet(TINY))


@pytest.mark.slow
def test_full_size():
    config = UNetConfig()
    x, t = jax.ShapeDtypeStruct((2, 64, 64, 4), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.int32)
    context = jax.ShapeDtypeStruct((2, 77, 1024), jnp.float32)
    control = IRControlNet(config, dtype=jnp.bfloat16)
    controls = jax.eval_shape(control.apply, {"params": abstract_controlnet(config)}, x, x, t, context)
    sizes = [64] * 3 + [32] * 3 + [16] * 3 + [8] * 4
    widths = [320] * 4 + [640] * 3 + [1280] * 6
    assert [y.shape for y in controls] == [(2, n, n, width) for n, width in zip(sizes, widths)]
    unet = UNet(config, jnp.bfloat16)
    out = jax.eval_shape(unet.apply, {"params": abstract_unet(config)}, x, t, context, controls)
    assert (out.shape, out.dtype) == (x.shape, jnp.float32)


def test_what_does_not_fit_is_refused(tiny):
    params, x, t = tiny

    def refused(match, network, *inputs):
        with pytest.raises(ValueError, match=match):
            jax.eval_shape(network, *inputs)

    unet, key = functools.partial(UNet(TINY).apply, {"params": params}), jax.random.key(0)
    refused("got 1 controls; this UNet takes 5", unet, x, t, None, [x])
    wordy = UNet(dataclasses.replace(TINY, context_dim=64))
    refused("context has None channels; this configuration takes 64", wordy.init, key, x, t)
    headed = UNet(dataclasses.replace(TINY, num_head_channels=12))
    refused("32 channels do not divide into heads of 12", headed.init, key, x, t)
    control = IRControlNet(TINY, hint_channels=5)
    refused(r"hint is \(2, 4, 6, 3\); expected \(2, 4, 6, 5\)", control.init, key, x, x, t)
