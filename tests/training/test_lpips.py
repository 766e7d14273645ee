"""LPIPS as a loss is the LPIPS that the evaluation measures."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.evaluation.learned import lpips
from diffbir_jax.models.backbones import VGG16, AlexNet
from diffbir_jax.models.lpips import lpips_shapes
from diffbir_jax.training.lpips import load_lpips, lpips_loss
from diffbir_jax.weights.safetensors import save_weights
from tests.draws import uniform

NETS = {"alex": AlexNet(), "vgg": VGG16()}
A, B = (uniform(i, (2, 32, 32, 3), -1.0) for i in range(2))
distance = jax.jit(lpips_loss, static_argnames=("net", "dtype"))
loss_and_gradient = jax.jit(jax.value_and_grad(lpips_loss, argnums=1), static_argnames="net")


@pytest.fixture(scope="module")
def params() -> dict[str, dict]:
    """Random weights that keep the size of activations; channel weights are not negative."""
    rng = np.random.default_rng(0)

    def draw(shape: jax.ShapeDtypeStruct) -> jax.Array:
        values = rng.standard_normal(shape.shape, np.float32)
        if len(shape.shape) == 1:
            return jnp.abs(0.05 * values)
        return jnp.asarray(values * np.sqrt(2 / np.prod(shape.shape[:-1])), jnp.float32)

    return {name: jax.tree.map(draw, lpips_shapes(net)) for name, net in NETS.items()}


@pytest.mark.parametrize("net", NETS)
def test_it_is_the_mean_of_the_evaluations_distances(net, params):
    pairs = [(jnp.stack(pair) + 1) / 2 for pair in zip(A, B)]
    wanted = np.mean([float(lpips(NETS[net], params[net], pair)) for pair in pairs])
    assert wanted > 0.01
    assert float(distance(params[net], A, B, net=net)) == pytest.approx(wanted, rel=1e-6)


def test_the_gradient_descends_and_vanishes_for_equal_images(params):
    loss, gradient = loss_and_gradient(params["alex"], A, B, net="alex")
    after, _ = loss_and_gradient(params["alex"], A - 1e-2 * gradient / jnp.abs(gradient).max(), B, net="alex")
    assert jnp.isfinite(gradient).all() and after < loss
    loss, gradient = loss_and_gradient(params["alex"], A, A, net="alex")
    assert loss < 1e-10 and jnp.abs(gradient).max() < 1e-5


def test_the_gradient_is_finite_where_all_features_vanish(params):
    """As in the black part of a picture, where the length's root has no derivative."""
    zeros = params["alex"] | {"features": jax.tree.map(jnp.zeros_like, params["alex"]["features"])}
    loss, gradient = loss_and_gradient(zeros, A, B, net="alex")
    assert loss == 0 and jnp.isfinite(gradient).all()


def test_bfloat16_stays_close(params):
    exact = distance(params["alex"], A, B, net="alex")
    half = distance(params["alex"], A, B, net="alex", dtype=jnp.bfloat16)
    assert half.dtype == jnp.float32
    assert float(half) == pytest.approx(float(exact), rel=0.05)


@pytest.mark.parametrize("net, side", [("alex", 31), ("vgg", 16)])
def test_what_does_not_fit_is_refused(net, side, params):
    with pytest.raises(ValueError, match=f"H, W >= {side}"):
        lpips_loss(params[net], A, B[:, 1:], net=net)
    with pytest.raises(ValueError, match=f"H, W >= {side}"):
        lpips_loss(params[net], A[:, : side - 1], B[:, : side - 1], net=net)
    with pytest.raises(ValueError, match="net is 'squeeze', allowed are alex, vgg"):
        lpips_loss(params[net], A, B, net="squeeze")


def test_weights_are_loaded_whole_or_refused(params, tmp_path: Path):
    file = save_weights(tmp_path / "lpips_alex.safetensors", params["alex"], {})
    loaded = load_lpips(file, net="alex")
    np.testing.assert_array_equal(loaded["linear4"], params["alex"]["linear4"])
    with pytest.raises(ValueError, match="does not fit"):
        load_lpips(file)
    with pytest.raises(FileNotFoundError, match="convert_metrics.py"):
        load_lpips(tmp_path / "absent.safetensors")
