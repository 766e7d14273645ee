"""The training state and the one jitted step that every objective shares."""

from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from diffbir_jax.console.errors import UserError
from diffbir_jax.models.apply import Params
from diffbir_jax.sharding import Batch
from diffbir_jax.training.config import OPTIONAL, Optimizer

LossFn = Callable[[Params, Params, Batch, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


class TrainState(NamedTuple):
    """The arrays of a checkpoint. The step is also the data position.

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


def make_optimizer(config: Optimizer) -> optax.GradientTransformation:
    """AdamW with linear warm-up, cosine decay and global-norm clipping.

    Args:
        config: as for `learning_rate`, and `betas`, `weight_decay`, `clip` (largest global gradient norm).
    """
    rate, (b1, b2) = learning_rate(config), config.betas
    adamw = optax.adamw(rate, b1=b1, b2=b2, weight_decay=config.weight_decay)
    return optax.chain(optax.clip_by_global_norm(config.clip), adamw)


def learning_rate(config: Optimizer) -> optax.Schedule:
    """Return the learning rate by optimizer step.

    Args:
        config: `lr` (peak), `final_lr` (share of the peak at the end), `warmup` and `steps` (steps), and, if there,
            `lr_steps`: pairs (step, peak from this step on).
    """
    curve = optax.warmup_cosine_decay_schedule(
        0.0, config.lr, config.warmup, max(config.steps, config.warmup + 1), config.lr * config.final_lr
    )
    changes = getattr(config, "lr_steps", OPTIONAL["train.lr_steps"])
    peaks = [config.lr, *(peak for _, peak in changes)]
    starts = [int(step) for step, _ in changes]
    if starts != sorted(set(starts)):
        raise UserError(f"config.train.lr_steps begin at {starts}, must be in ascending order")
    ratios = {step: after / before for step, before, after in zip(starts, peaks, peaks[1:])}
    drops = optax.piecewise_constant_schedule(1.0, ratios)
    return lambda count: curve(count) * drops(count)


def init_state(params: Params, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """Return the state before the first step; its EMA equals `params`. Both are copies: steps donate the state."""
    key = jax.random.key_data(jax.random.key(seed))

    @jax.jit  # one program for all leaves; without it each shape compiles several small programs
    def first(params: Params) -> TrainState:
        copy, ema = (jax.tree.map(jnp.copy, params) for _ in range(2))
        return TrainState(jnp.zeros((), jnp.int32), copy, ema, optimizer.init(params), key)

    return first(params)


def make_step(
    loss_fn: LossFn, optimizer: optax.GradientTransformation, ema_decay: float, accumulate: int = 1
) -> Callable[[TrainState, Params, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """Build the pure step (state, frozen, batch) -> (state, metrics); the caller jits it.

    Frozen parameters are a separate argument, so they have no gradient and no optimizer state. The EMA decay warms up
    as min(decay, (1 + step) / (10 + step)), so the EMA soon forgets early weights. For `accumulate` see `gradients`.
    """
    value_and_grad = gradients(loss_fn, accumulate)

    def step(state: TrainState, frozen: Params, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        # Folding in the step makes the noise of a resumed run equal to that of an uninterrupted run.
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        (loss, metrics), grads = value_and_grad(state.params, frozen, batch, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = cast(Params, optax.apply_updates(state.params, updates))
        ema = averaged(state.ema, params, state.step, ema_decay)
        metrics = metrics | {"loss": loss} | reported(grads, params)
        return TrainState(state.step + 1, params, ema, opt_state, state.key), metrics

    return step


def averaged(ema: Params, params: Params, step: jax.Array, decay: float) -> Params:
    """Return the moving average after the optimizer step that follows `step` earlier ones, see `make_step`."""
    count = step.astype(jnp.float32)
    kept = jnp.minimum(decay, (1.0 + count) / (10.0 + count))
    return jax.tree.map(lambda e, p: e + (1.0 - kept) * (p - e), ema, params)


def reported(gradient: Params, params: Params) -> dict[str, jax.Array]:
    """Return the metrics that every step has: the norms of gradient and parameters."""
    return {"grad_norm": optax.tree.norm(gradient), "param_norm": optax.tree.norm(params)}


def gradients(loss_fn: LossFn, accumulate: int = 1) -> Callable:
    """Return (params, frozen, batch, key) -> ((loss, metrics), gradient), computed in `accumulate` parts of the batch.

    The parts run one after the other and the function returns their mean. It needs the memory of one part. Each part
    has its own key. Of k parts, part i has the examples i, i + k, i + 2 k, ...: a batch that is split over devices in
    contiguous pieces does not have to move.

    Raises:
        ValueError: `accumulate` is below 1, or does not divide the batch (raised when the step is traced).
    """
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
    if accumulate < 1:
        raise UserError(f"config.train.accumulate is {accumulate}, must be at least 1")
    if accumulate == 1:
        return value_and_grad

    def mean(params: Params, frozen: Params, batch: Batch, key: jax.Array) -> tuple:
        def add(total: tuple, part: tuple[Batch, jax.Array]) -> tuple[tuple, None]:
            return jax.tree.map(jnp.add, total, value_and_grad(params, frozen, *part)), None

        size = len(next(iter(batch.values())))
        if size % accumulate:
            raise UserError(
                f"config.train.accumulate is {accumulate}, must divide the batch of {size} (config.data.batch_size)"
            )
        parts = parts_of(batch, accumulate), jax.random.split(key, accumulate)
        # Sums need a start of the result's structure and dtypes; shapes are enough, so no part runs twice.
        first = jax.eval_shape(value_and_grad, params, frozen, *jax.tree.map(lambda x: x[0], parts))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), first)
        total, _ = jax.lax.scan(add, zeros, parts)
        return jax.tree.map(lambda x: x / accumulate, total)

    return mean


def parts_of(batch: Batch, count: int) -> Batch:
    """Reshape each array (B, ...) to (count, B / count, ...); `count` divides B. See `gradients` for the order."""
    return {name: jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0) for name, x in batch.items()}
