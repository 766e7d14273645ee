"""The training state and the one jitted step that every objective shares."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from diffbir_jax.models.apply import Params

Config = Any  # ml_collections.ConfigDict, whose attributes no type checker can know
Batch = dict[str, jax.Array]
LossFn = Callable[[Params, Params, Batch, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


class TrainState(NamedTuple):
    """Everything that a checkpoint holds; the data position is the step itself.

    Attributes:
        step: () int32, optimizer steps done.
        params: trainable parameters, float32.
        ema: exponential moving average of `params`, float32.
        opt_state: optax state.
        key: PRNG key data of the run (uint32); step k uses fold_in(key, k).
    """

    step: jax.Array
    params: Params
    ema: Params
    opt_state: optax.OptState
    key: jax.Array


def learning_rate(config: Config) -> optax.Schedule:
    """Linear warm-up and cosine decay: the learning rate by the number of steps done before.

    Args:
        config: `lr` (peak), `final_lr` (share of the peak at the end), `warmup` and `steps` (steps).
    """
    return optax.warmup_cosine_decay_schedule(
        0.0, config.lr, config.warmup, max(config.steps, config.warmup + 1), config.lr * config.final_lr
    )


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """AdamW at `learning_rate`, with global-norm clipping.

    Args:
        config: as for `learning_rate`, and `betas`, `weight_decay`, `clip` (global gradient norm).
    """
    adamw = optax.adamw(
        learning_rate(config), b1=config.betas[0], b2=config.betas[1], weight_decay=config.weight_decay
    )
    return optax.chain(optax.clip_by_global_norm(config.clip), adamw)


def init_state(params: Params, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """Return the state before the first step, its EMA equal to `params`; both are copies, as steps donate the state."""
    key = jax.random.key_data(jax.random.key(seed))

    @jax.jit  # one program, where each leaf would need some of its own
    def first(params: Params) -> TrainState:
        copy, ema = (jax.tree.map(jnp.copy, params) for _ in range(2))
        return TrainState(jnp.zeros((), jnp.int32), copy, ema, optimizer.init(params), key)

    return first(params)


def make_step(loss_fn: LossFn, optimizer: optax.GradientTransformation, ema_decay: float):
    """Build the pure step (state, frozen, batch) -> (state, metrics), to be jitted by the caller.

    Frozen parameters are an argument of their own, so no gradient or optimizer state exists for them. The EMA warms up
    as min(decay, (1 + step) / (10 + step)), so that early weights are soon forgotten.
    """

    def step(state: TrainState, frozen: Params, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params, frozen, batch, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = cast(Params, optax.apply_updates(state.params, updates))
        count = state.step.astype(jnp.float32)
        decay = jnp.minimum(ema_decay, (1.0 + count) / (10.0 + count))
        ema = jax.tree.map(lambda e, p: e + (1.0 - decay) * (p - e), state.ema, params)
        norms = {"grad_norm": optax.tree.norm(grads), "param_norm": optax.tree.norm(params)}
        metrics = metrics | {"loss": loss} | norms
        return TrainState(state.step + 1, params, ema, opt_state, state.key), metrics

    return step
