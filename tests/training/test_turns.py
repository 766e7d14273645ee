"""Training steps of several turns: each network's optimizer, what the second turn sees, and what is carried."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffbir_jax.console.errors import UserError
from diffbir_jax.training.state import init_state, make_step
from diffbir_jax.training.turns import Turn, by_group, make_turns

START = {"a": jnp.float32(1.0), "b": jnp.float32(2.0), "c": jnp.float32(3.0)}
BATCH = {"x": jnp.arange(1.0, 5.0, dtype=jnp.float32)}


@pytest.fixture(autouse=True)
def promotion() -> Any:
    """What optax relies on."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def loss(name: str, other: str) -> Any:
    """d loss / d `name` is the mean of x times `other`; what else it tells is the number of examples."""

    def computed(params: dict, frozen: dict, batch: dict, key: jax.Array) -> tuple[jax.Array, dict]:
        x = jnp.mean(batch["x"])
        return params[name] * params[other] * x, {name: x}

    return computed


def stepped(turns: tuple[Turn, ...], clip: float = 1e9, steps: int = 1, accumulate: int = 1) -> Any:
    """The state after some steps of plain gradient descent at rate 1, and the last metrics."""
    optimizer = by_group(optax.chain(optax.clip_by_global_norm(clip), optax.sgd(1.0)), turns)
    state, metrics = init_state(START, optimizer, 0), {}
    step = jax.jit(make_turns(turns, optimizer, 0.5, accumulate))
    for _ in range(steps):
        state, metrics = step(state, {}, BATCH)
    return state, metrics


def test_a_turn_sees_what_the_one_before_has_trained_and_its_own_examples() -> None:
    """Of four examples the first and the third are the first turn's."""
    turns = Turn(loss("a", "b"), (("a",),)), Turn(loss("b", "a"), (("b",),))
    state, metrics = stepped(turns)
    a = 1.0 - 2.0 * 2.0
    assert state.params["a"] == a and state.params["b"] == 2.0 - a * 3.0 and state.params["c"] == 3.0
    assert metrics["a"] == 2.0 and metrics["b"] == 3.0 and metrics["loss"] == 1.0 * 2.0 * 2.0
    assert metrics["grad_norm"] == pytest.approx(np.hypot(4.0, 9.0))


def test_groups_are_clipped_apart() -> None:
    def both(params: dict, frozen: dict, batch: dict, key: jax.Array) -> tuple[jax.Array, dict]:
        return 100.0 * params["a"] + 0.5 * params["b"] + 0.5 * params["c"], {}

    apart, _ = stepped((Turn(both, (("a",), ("b", "c"))),), clip=1.0)
    assert apart.params["a"] == 0.0 and apart.params["b"] == 1.5 and apart.params["c"] == 2.5


def test_what_is_carried_comes_from_before_the_turn_and_has_no_gradient() -> None:
    carry = Turn(loss("a", "c"), (("a",),), lambda params: {"c": params["a"] + params["c"]})
    state, _ = stepped((carry,), steps=2)
    # a: 1 - 3 * 2.5, then minus 4 * 2.5; c: 1 + 3, then the first new a more.
    assert state.params["a"] == -6.5 - 10.0 and state.params["c"] == 4.0 - 6.5


def test_one_turn_of_everything_is_the_ordinary_step() -> None:
    def whole(params: dict, frozen: dict, batch: dict, key: jax.Array) -> tuple[jax.Array, dict]:
        return jnp.mean(batch["x"]) * params["a"] * params["b"] * params["c"], {}

    turned, _ = stepped((Turn(whole, (("a", "b", "c"),)),), accumulate=2)
    state = init_state(START, optax.sgd(1.0), 0)
    plain, _ = jax.jit(make_step(whole, optax.sgd(1.0), 0.5, 2))(state, {}, BATCH)
    for tree, other in ((turned.params, plain.params), (turned.ema, plain.ema)):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), tree, other)


def test_a_batch_has_a_part_for_each_turn() -> None:
    turns = tuple(Turn(loss("a", "b"), (("a",),)) for _ in range(3))
    with pytest.raises(UserError, match=r"config.data.batch_size is 4, must be a multiple of 3"):
        stepped(turns)
