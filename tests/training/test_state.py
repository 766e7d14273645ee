import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from diffbir_jax.training.state import gradients, init_state, learning_rate, make_optimizer, make_step

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


def test_the_peak_changes_at_given_steps():
    """DiffBIR v2: 1e-4, then 1e-5; the curve of warm-up and decay goes on beneath."""
    options = ConfigDict(OPTIONS | {"warmup": 0, "final_lr": 1.0, "lr_steps": ((3, 1e-3), (5, 4e-3))})
    rates = [float(learning_rate(options)(step)) for step in range(7)]
    np.testing.assert_allclose(rates, [1e-2] * 3 + [1e-3] * 2 + [4e-3] * 2, rtol=1e-6)
    decaying = ConfigDict(OPTIONS | {"lr_steps": ((10, 1e-3),)})
    ratio = learning_rate(decaying)(12) / learning_rate(ConfigDict(OPTIONS))(12)
    np.testing.assert_allclose(ratio, 0.1, rtol=1e-5)
    with pytest.raises(ValueError, match=r"lr_steps begin at \[5, 3\], must be in ascending order"):
        learning_rate(ConfigDict(OPTIONS | {"lr_steps": ((5, 1e-3), (3, 1e-4))}))


def squares(params, frozen, batch, key):
    """A loss whose gradient differs for every example."""
    error = jnp.square(jnp.tanh(batch["x"] @ params["w"]) - batch["y"])
    return jnp.mean(error), {"worst": jnp.mean(jnp.max(error, axis=-1))}


def test_accumulated_gradients_are_those_of_the_whole_batch():
    rng = np.random.default_rng(0)
    batch = {"x": rng.standard_normal((12, 5), np.float32), "y": rng.standard_normal((12, 3), np.float32)}
    params = {"w": jnp.asarray(rng.standard_normal((5, 3), np.float32))}
    whole, parts = (
        jax.jit(gradients(squares, count))(params, {}, batch, jax.random.key(0)) for count in (1, 4)
    )
    assert jax.tree.structure(whole) == jax.tree.structure(parts)
    np.testing.assert_allclose(parts[1]["w"], whole[1]["w"], rtol=1e-6, atol=1e-7)
    for a, b in zip(jax.tree.leaves(parts[0]), jax.tree.leaves(whole[0])):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_accumulation_takes_one_optimizer_step_and_draws_for_every_part():
    def loss(params, frozen, batch, key):
        return jnp.sum(params["w"]), {"draw": jax.random.uniform(key)}

    adam = optimizer(warmup=0)
    state = init_state({"w": jnp.ones(1)}, adam, 7)
    after, metrics = make_step(loss, adam, 0.5, accumulate=2)(state, {}, {"x": jnp.ones(4)})
    assert (int(after.step), int(after.opt_state[1][0].count)) == (1, 1)
    draws = jax.vmap(jax.random.uniform)(jax.random.split(jax.random.fold_in(jax.random.key(7), 0)))
    np.testing.assert_allclose(metrics["draw"], np.mean(draws), rtol=1e-6)


def test_parts_must_divide_the_batch():
    with pytest.raises(ValueError, match="accumulate is 0, must be at least 1"):
        gradients(squares, 0)
    with pytest.raises(
        ValueError, match=r"accumulate is 3, must divide the batch of 4 \(config\.data\.batch_size"
    ):
        gradients(squares, 3)({}, {}, {"x": jnp.ones(4)}, jax.random.key(0))


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
