"""Training steps in which several networks have losses and optimizers of their own, such as a GAN's two.

A training step takes its turns one after the other. Each sees what the turns before it have trained.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import jax
import optax

from diffbir_jax.console.errors import UserError
from diffbir_jax.models.apply import Params
from diffbir_jax.training.state import Batch, LossFn, TrainState, averaged, gradients, parts_of, reported

Names = tuple[str, ...]


def carry_nothing(params: Params) -> Params:
    """The `carry` of turns without such values."""
    return {}


@dataclass(frozen=True)
class Turn:
    """One part of a training step.

    Attributes:
        loss: as an objective's.
        trains: names of the parameters that it changes, in groups. A group has an AdamW of its own, and its gradient
            is clipped by its own norm.
        carry: parameters before the turn -> values that are computed and not trained, such as the vectors of spectral
            norms, by name. They replace the parameters of these names after the turn.
    """

    loss: LossFn
    trains: tuple[Names, ...]
    carry: Callable[[Params], Params] = carry_nothing


def by_group(optimizer: optax.GradientTransformation, turns: Sequence[Turn]) -> optax.GradientTransformation:
    """Return an optimizer with a state for each group of the turns.

    Its update takes the gradients of some groups. It returns their updates, and leaves the states of all others.
    """
    groups = [names for turn in turns for names in turn.trains]

    def init(params: Params) -> tuple:
        return tuple(optimizer.init(_part(params, names)) for names in groups)

    def update(gradient: Params, states: tuple, params: Params) -> tuple[Params, tuple]:
        updates: Params = {}
        after = []
        for names, state in zip(groups, states, strict=True):
            if gradient.keys() >= set(names):
                found, state = optimizer.update(_part(gradient, names), state, _part(params, names))
                updates |= cast(Params, found)
            after.append(state)
        return updates, tuple(after)

    return optax.GradientTransformation(
        cast(optax.TransformInitFn, init), cast(optax.TransformUpdateFn, update)
    )


def make_turns(
    turns: Sequence[Turn], optimizer: optax.GradientTransformation, ema_decay: float, accumulate: int = 1
) -> Callable[[TrainState, Params, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """Build the pure step (state, frozen, batch) -> (state, metrics), as `state.make_step` does.

    Of several turns each has its own part of the batch, and its own key. The metric `loss` is that of the first turn.

    Args:
        turns: at least one.
        optimizer: from `by_group` of the same turns.
        ema_decay, accumulate: as for `make_step`; each turn's part of the batch is accumulated by itself.
    """

    def step(state: TrainState, frozen: Params, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        rows, keys = _split(batch, len(turns)), jax.random.split(key, len(turns))
        params, opt_state = state.params, state.opt_state
        metrics, changes = {}, {}
        for turn, own, drawn in zip(turns, rows, keys, strict=True):
            said, gradient = _gradient(turn, accumulate, params, frozen, own, drawn)
            updates, opt_state = optimizer.update(cast(optax.Updates, gradient), opt_state, params)
            carried = turn.carry(params)
            trained = optax.apply_updates(_part(params, tuple(gradient)), cast(optax.Updates, updates))
            params = params | cast(Params, trained) | carried
            metrics, changes = said | metrics, changes | gradient
        ema = averaged(state.ema, params, state.step, ema_decay)
        metrics |= reported(changes, params)
        return TrainState(state.step + 1, params, ema, opt_state, state.key), metrics

    return step


def _gradient(
    turn: Turn, accumulate: int, params: Params, frozen: Params, batch: Batch, key: jax.Array
) -> tuple[dict[str, jax.Array], Params]:
    """Return the metrics of a turn, and the gradient of what it trains."""
    names = tuple(name for group in turn.trains for name in group)
    # The others go in beside what is frozen, so that they have no gradient.
    inputs = _part(params, names), {"params": params, "frozen": frozen}
    run = gradients(partial(_apart, turn.loss), accumulate)
    (loss, said), gradient = run(*inputs, batch, key)
    return {"loss": loss} | said, gradient


def _apart(
    loss: LossFn, own: Params, rest: Params, batch: Batch, key: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    return loss(rest["params"] | own, rest["frozen"], batch, key)


def _split(batch: Batch, count: int) -> list[Batch]:
    """Return a part of the batch for each turn."""
    size = len(next(iter(batch.values())))
    if size % count:
        raise UserError(
            f"config.data.batch_size is {size}, must be a multiple of {count}: "
            f"each of the {count} networks in turn has its own part of a batch"
        )
    if count == 1:
        return [batch]
    parts = parts_of(batch, count)
    return [jax.tree.map(lambda x, i=i: x[i], parts) for i in range(count)]


def _part(params: Params, names: Names) -> Params:
    return {name: params[name] for name in names}
