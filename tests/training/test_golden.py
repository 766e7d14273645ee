"""Training steps of the reference on the small networks: losses, gradients and what AdamW makes of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from diffbir_jax.conversion.checkpoints import abstract_controlnet, abstract_swinir, abstract_unet
from diffbir_jax.conversion.engine import export
from diffbir_jax.conversion.tables import controlnet_rules, swinir_rules, unet_rules
from diffbir_jax.diffusion.schedule import make_schedule, q_sample, training_target
from diffbir_jax.models.controlnet import IRControlNet
from diffbir_jax.models.swinir import SwinIR
from diffbir_jax.models.unet import UNet
from diffbir_jax.training.state import make_optimizer
from tests.models.reference import GOLDEN, SWINIR, UNET, filled, nhwc, relative_error

PARAMETERIZATIONS = ("eps", "v")
# Convolutions before a normalisation of one channel per group: their bias and timestep have no effect, so what either
# implementation gives as their gradient is rounding.
WITHOUT_EFFECT = [
    f"input_blocks.{block}.0.{name}"
    for block in (1, 2)
    for name in ("in_layers.2.bias", "emb_layers.1.bias", "emb_layers.1.weight")
]


@pytest.fixture(scope="module")
def golden():
    """As stored: the gradients are in PyTorch's layout."""
    with np.load(GOLDEN / "training.npz") as data:
        return dict(data)


@pytest.fixture(scope="module")
def unet():
    return filled("unet", unet_rules(UNET), abstract_unet(UNET))


@pytest.fixture(scope="module")
def control():
    return filled("controlnet", controlnet_rules(UNET), abstract_controlnet(UNET))


@jax.jit
@jax.value_and_grad
def stage_2(control, unet, inputs, target):
    z_t, condition, t, context = inputs
    controls = IRControlNet(UNET).apply({"params": control}, z_t, condition, t, context)
    output = UNet(UNET).apply({"params": unet}, z_t, t, context, controls)
    return jnp.mean(jnp.square(output - target))


@pytest.fixture(scope="module")
def run(golden, unet, control):
    """Parameterization -> (z_t, loss, gradients by the reference's keys)."""

    @functools.cache
    def run(parameterization):
        schedule = make_schedule(zero_terminal_snr=parameterization == "v", parameterization=parameterization)
        z0, noise, condition = (nhwc(golden[key]) for key in ("z0", "noise", "condition"))
        t, context = jnp.asarray(golden["timesteps"], jnp.int32), jnp.asarray(golden["context"])
        z_t = q_sample(schedule, z0, t, noise)
        target = training_target(schedule, z0, t, noise)
        loss, gradient = stage_2(control, unet, (z_t, condition, t, context), target)
        return z_t, float(loss), export(gradient, list(controlnet_rules(UNET)))

    return run


def norms(gradient, names):
    return np.array([np.linalg.norm(gradient[name].astype(np.float64)) for name in names])


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_noisy_latent_and_loss(golden, run, parameterization):
    z_t, loss, _ = run(parameterization)
    assert relative_error(z_t, nhwc(golden[f"{parameterization}|noisy"])) <= 1e-6
    np.testing.assert_allclose(loss, golden[f"{parameterization}|loss"], rtol=1e-6)


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_gradient_norm_of_every_parameter(golden, run, parameterization):
    """Each norm to 1e-4 of itself, which is stricter than 1e-4 of the largest."""
    names, expected = (golden[f"{parameterization}|grad_{key}"] for key in ("names", "norms"))
    gradient = run(parameterization)[2]
    assert set(names) == set(gradient)
    given, effective = norms(gradient, names), ~np.isin(names, WITHOUT_EFFECT)
    assert effective.sum() == len(names) - len(WITHOUT_EFFECT)
    np.testing.assert_allclose(given[effective], expected[effective], rtol=1e-4)
    assert max(*given[~effective], *expected[~effective]) <= 1e-6 * expected.max()


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_whole_gradients(golden, run, parameterization):
    prefix = f"{parameterization}|grad|"
    keys = [key for key in golden if key.startswith(prefix)]
    assert len(keys) == 6
    for key in keys:
        assert relative_error(run(parameterization)[2][key.removeprefix(prefix)], golden[key]) <= 1e-4, key


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_adamw(golden, control, parameterization):
    """From the reference's gradients: where those are near epsilon, AdamW multiplies their last digits by 1e4.

    The stored change is the difference of two float32 parameters; it is known to one rounding of the parameter.
    """
    options = {"lr": 1e-4, "final_lr": 1.0, "warmup": 0, "steps": 10, "betas": (0.9, 0.999)}
    optimizer = make_optimizer(ConfigDict(options | {"weight_decay": 0.01, "clip": 1e9}))
    weights = export(control, list(controlnet_rules(UNET)))
    prefix = f"{parameterization}|adamw|"
    keys = [key.removeprefix(prefix) for key in golden if key.startswith(prefix)]
    assert len(keys) == 6
    params = {key: jnp.asarray(weights[key]) for key in keys}
    gradient = {key: jnp.asarray(golden[f"{parameterization}|grad|{key}"]) for key in keys}
    with jax.numpy_dtype_promotion("standard"):  # which optax relies on
        update, _ = optimizer.update(gradient, optimizer.init(params), params)
        after = optax.apply_updates(params, update)
    for key in keys:
        expected = golden[prefix + key]
        error = np.abs(np.asarray(after[key]) - weights[key] - expected)
        assert (error <= 1e-4 * np.abs(expected).max() + np.spacing(np.abs(weights[key]))).all(), key


def test_stage_1(golden):
    """Summed squared error of SwinIR."""
    table = list(swinir_rules(SWINIR))

    @jax.jit
    @jax.value_and_grad
    def stage_1(params, lq, hq):
        return jnp.sum(jnp.square(SwinIR(SWINIR).apply({"params": params}, lq) - hq))

    params = filled("swinir", table, abstract_swinir(SWINIR))
    loss, gradient = stage_1(params, nhwc(golden["swinir|lq"]), nhwc(golden["swinir|hq"]))
    np.testing.assert_allclose(float(loss), golden["swinir|loss"], rtol=1e-6)
    gradient, names = export(gradient, table), golden["swinir|grad_names"]
    assert set(names) == set(gradient)
    np.testing.assert_allclose(norms(gradient, names), golden["swinir|grad_norms"], rtol=1e-4)
