"""Training steps of the reference on the small networks: losses, gradients and what AdamW makes of them."""

import functools

import numpy as np
import pytest

from diffbir_jax.parity.case import relative
from diffbir_jax.parity.runner import misses
from diffbir_jax.parity.training import norms, stage_1, stage_2
from tests.models.reference import GOLDEN

SALT = "a"
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
def run(golden):
    """Parameterization -> (loss, gradients by the reference's keys)."""
    return functools.cache(lambda parameterization: stage_2(parameterization, golden, SALT))


@pytest.mark.slow
@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_loss(golden, run, parameterization):
    np.testing.assert_allclose(run(parameterization)[0], golden[f"{parameterization}|loss"], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_gradient_norm_of_every_parameter(golden, run, parameterization):
    """Each norm to 1e-4 of itself, which is stricter than 1e-4 of the largest."""
    names, expected = (golden[f"{parameterization}|grad_{key}"] for key in ("names", "norms"))
    gradient = run(parameterization)[1]
    assert set(names) == set(gradient)
    given, effective = norms(gradient, names), ~np.isin(names, WITHOUT_EFFECT)
    assert effective.sum() == len(names) - len(WITHOUT_EFFECT)
    np.testing.assert_allclose(given[effective], expected[effective], rtol=1e-4)
    assert max(*given[~effective], *expected[~effective]) <= 1e-6 * expected.max()


@pytest.mark.slow
@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_whole_gradients(golden, run, parameterization):
    prefix = f"{parameterization}|grad|"
    keys = [key for key in golden if key.startswith(prefix)]
    assert len(keys) == 6
    for key in keys:
        assert relative(run(parameterization)[1][key.removeprefix(prefix)], golden[key]) <= 1e-4, key


def test_adamw():
    assert misses(GOLDEN, "training:*|adamw") == []


@pytest.mark.parametrize("name", ["gan|*", "head|*", pytest.param("vsd", marks=pytest.mark.slow)])
def test_losses_of_one_step_training(name):
    assert misses(GOLDEN, f"losses:{name}") == []


def test_stage_1(golden):
    """Summed squared error of SwinIR."""
    loss, gradient = stage_1(golden, SALT)
    np.testing.assert_allclose(loss, golden["swinir|loss"], rtol=1e-6)
    names = golden["swinir|grad_names"]
    assert set(names) == set(gradient)
    np.testing.assert_allclose(norms(gradient, names), golden["swinir|grad_norms"], rtol=1e-4)
