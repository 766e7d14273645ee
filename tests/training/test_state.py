import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from diffbir_jax.training.state import init_state, make_optimizer, make_step

OPTIONS = {
    "lr": 1e-2,
    "final_lr": 0.1,
    "warmup": 4,
    "steps": 20,
    "betas": (0.9, 0.99),
    "weight_decay": 0.0,
    "clip": 1.0,
}


@pytest.fixture(autouse=True)
def standard_promotion():
    """Optax relies on it."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def optimizer(**changes):
    return make_optimizer(ConfigDict(OPTIONS | changes))


def test_learning_rate_warms_up_and_decays():
    """For a constant gradient, Adam's update is the learning rate."""
    adam, params = optimizer(), {"w": jnp.ones(1)}
    state, rates = adam.init(params), []
    for _ in range(25):
        update, state = adam.update({"w": jnp.full(1, 0.5)}, state, params)
        rates.append(-float(update["w"][0]))
    progress = np.clip((np.arange(25) - 4) / 16, 0, 1)
    expected = np.where(np.arange(25) < 4, np.arange(25) / 4, 0.1 + 0.9 * (1 + np.cos(np.pi * progress)) / 2)
    np.testing.assert_allclose(rates, 1e-2 * expected, rtol=1e-4, atol=1e-8)


def test_gradients_are_clipped_by_their_global_norm():
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    for size, scale in ((10.0, 0.1), (0.1, 1.0)):
        gradient = {"a": jnp.full(1, 0.6 * size), "b": jnp.full(1, 0.8 * size)}
        _, state = optimizer().update(gradient, optimizer().init(params), params)
        moments = state[1][0].mu
        np.testing.assert_allclose(moments["a"], 0.1 * 0.6 * size * scale, rtol=1e-6)
        np.testing.assert_allclose(moments["b"], 0.1 * 0.8 * size * scale, rtol=1e-6)


def test_weight_decay_is_decoupled():
    adam = optimizer(weight_decay=0.5, warmup=0)
    params = {"w": jnp.full(1, 3.0)}
    update, _ = adam.update({"w": jnp.zeros(1)}, adam.init(params), params)
    np.testing.assert_allclose(update["w"], -1e-2 * 0.5 * 3.0, rtol=1e-6)


def run(loss, params, frozen, steps, ema_decay=0.5):
    adam = optimizer(warmup=0)
    step, state, history = jax.jit(make_step(loss, adam, ema_decay)), init_state(params, adam, 7), []
    for _ in range(steps):
        state, metrics = step(state, frozen, {"x": jnp.ones(2)})
        history.append((state, metrics))
    return history


def test_step_counts_follows_the_loss_and_averages():
    def loss(params, frozen, batch, key):
        value = jnp.sum(jnp.square(params["w"] * batch["x"] - frozen["target"]))
        return value, {"double": 2 * value}

    history = run(loss, {"w": jnp.array([3.0, 4.0])}, {"target": jnp.zeros(2)}, 12, ema_decay=0.4)
    ema = w = np.array([3.0, 4.0])
    for k, (state, metrics) in enumerate(history):
        assert int(state.step) == k + 1
        np.testing.assert_allclose(metrics["loss"], np.sum(w**2), rtol=1e-5)
        np.testing.assert_allclose(metrics["double"], 2 * np.sum(w**2), rtol=1e-5)
        np.testing.assert_allclose(metrics["grad_norm"], np.linalg.norm(2 * w), rtol=1e-5)
        w = np.asarray(state.params["w"])
        np.testing.assert_allclose(metrics["param_norm"], np.linalg.norm(w), rtol=1e-5)
        decay = min(0.4, (1 + k) / (10 + k))
        ema = decay * ema + (1 - decay) * w
        np.testing.assert_allclose(state.ema["w"], ema, rtol=1e-6)


def test_every_step_draws_numbers_of_its_own_and_the_same_again():
    def loss(params, frozen, batch, key):
        return jnp.sum(params["w"]), {"draw": jax.random.uniform(key)}

    first, again = ([float(m["draw"]) for _, m in run(loss, {"w": jnp.ones(1)}, {}, 5)] for _ in range(2))
    assert first == again
    assert len(set(first)) == 5


def test_parameters_that_turn_nan_show_at_once():
    """The loss of that step is that of the parameters before it."""

    def loss(params, frozen, batch, key):
        return jnp.sum(jnp.sqrt(params["w"])), {}

    state, metrics = run(loss, {"w": jnp.zeros(1)}, {}, 1)[0]
    assert not jnp.isfinite(state.params["w"]).any()
    assert float(metrics["loss"]) == 0
    assert not np.isfinite(metrics["grad_norm"]) and not np.isfinite(metrics["param_norm"])
