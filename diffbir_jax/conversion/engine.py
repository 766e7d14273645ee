"""The rule engine: a table of rules turns a PyTorch state dict into Flax parameters and back.

A rule names one tensor on each side, so a table states every key exactly once and can be read as documentation.
All mismatches (keys that are missing, unexpected, misshapen or without floating-point numbers) are raised together.
"""

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from diffbir_jax.console.errors import UserError
from diffbir_jax.console.plain import counted
from diffbir_jax.conversion.stored import Shaped
from diffbir_jax.files.trees import Params
from diffbir_jax.weights.safetensors import flatten, unflatten

T = TypeVar("T", bound=Hashable)
DAMAGED = "the checkpoint is damaged"


@dataclass(frozen=True)
class Layout:
    """The order of one tensor's axes: a pair of inverse functions, each a view if possible."""

    to_flax: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]


SAME = Layout(lambda x: x, lambda x: x)
DENSE = Layout(np.transpose, np.transpose)
CONV = Layout(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))
# A 1x1 convolution that is a dense layer on the Flax side.
POINTWISE = Layout(lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None])


@dataclass(frozen=True)
class Rule:
    """One tensor on both sides.

    Attributes:
        key: key in the PyTorch state dict.
        path: path in the Flax parameters, joined with "/".
        layout: order of the axes.
        index: position along a leading axis that only the Flax side has, if it stacks repeated blocks.
    """

    key: str
    path: str
    layout: Layout = SAME
    index: int | None = None

    def within(self, key_prefix: str, path_prefix: str) -> "Rule":
        """The same rule for a network that is one part of a larger file and of a larger tree."""
        return replace(self, key=key_prefix + self.key, path=path_prefix + self.path)


class ConversionError(UserError):
    """A state dict does not fit the table; the message lists every problem."""


def convert(
    state: Mapping[str, Shaped],
    table: Sequence[Rule],
    target: Params,
    ignore: Sequence[str] = (),
) -> Params:
    """Flax parameters from a PyTorch state dict.

    Args:
        state: key -> array of any float dtype, or an object with `shape` and `dtype` that numpy can read as an array.
        table: the rules; each key and each element of the target is matched exactly once.
        target: parameters of the network, or their abstract shapes.
        ignore: regular expressions of whole keys that hold no weights.

    Returns:
        nested dict of float32 arrays with the structure and shapes of `target`. They can be views of `state`.

    Raises:
        ConversionError: the table does not cover the target, keys are missing, unexpected, misshapen or without
            floating-point numbers, or values are not finite.
    """
    check(state, table, target, ignore)
    # Shapes are checked before any value is read: a wrong file of gigabytes fails in seconds.
    arrays = {rule: read(state, rule) for rule in table}
    raise_all(DAMAGED, [problem for rule, x in arrays.items() for problem in not_finite(rule, x)])
    return unflatten(
        {path: _join([arrays[rule] for rule in rules], rules) for path, rules in by_path(table).items()}
    )


def check(
    state: Mapping[str, Shaped],
    table: Sequence[Rule],
    target: Params,
    ignore: Sequence[str] = (),
    network: str = "the network",
) -> None:
    """Raise the errors of `convert` for these arguments, without reading any values; `network` is its name."""
    shapes = torch_shapes(table, target)
    state = {key: x for key, x in state.items() if not any(re.fullmatch(p, key) for p in ignore)}
    # All problems in one message: fixing them one by one would take a run each.
    problems = [f"missing {key} {shape}" for key, shape in shapes.items() if key not in state]
    problems += [f"unexpected {key} {tuple(x.shape)}" for key, x in state.items() if key not in shapes]
    problems += [
        f"misshapen {key}: got {tuple(state[key].shape)}, expected {shape}"
        for key, shape in shapes.items()
        if key in state and tuple(state[key].shape) != shape
    ]
    problems += [
        f"no floating numbers {key}: stored as {state[key].dtype}"
        for key in shapes
        if key in state and not is_floating(state[key].dtype)
    ]
    raise_all(f"the checkpoint does not fit {network}", problems)


def by_path(table: Iterable[Rule]) -> dict[str, list[Rule]]:
    """The rules of each parameter, sorted by path; for stacked blocks, by position along that axis."""
    rules: dict[str, list[Rule]] = {}
    for rule in sorted(table, key=lambda rule: (rule.path, rule.index or 0)):
        rules.setdefault(rule.path, []).append(rule)
    return rules


def read(state: Mapping[str, Shaped], rule: Rule) -> np.ndarray:
    """The float32 array of one rule in Flax's layout: a parameter, or one block's part of a stacked parameter."""
    return rule.layout.to_flax(np.asarray(state[rule.key]).astype(np.float32, copy=False))


def is_floating(dtype: DTypeLike) -> bool:
    """Whether a dtype can hold weights; numpy alone does not count bfloat16."""
    return jnp.issubdtype(dtype, jnp.floating)


def not_finite(rule: Rule, array: np.ndarray) -> list[str]:
    """The problem, if any, with the values that `read` returned."""
    with np.errstate(invalid="ignore"):
        total = array.sum(dtype=np.float64)  # needs no memory for a mask, and cannot overflow
    # One pass for good files; only a bad one is counted.
    bad = 0 if np.isfinite(total) else np.count_nonzero(~np.isfinite(array))
    return [f"not finite {rule.key}: {bad:,} of {array.size:,} values"] if bad else []


def export(params: Params, table: Sequence[Rule]) -> dict[str, np.ndarray]:
    """The inverse of `convert`: a PyTorch state dict from Flax parameters.

    Raises:
        ConversionError: the table does not cover the parameters.
    """
    leaves = flatten(params)
    _check_coverage(table, {path: np.shape(x) for path, x in leaves.items()})
    return {rule.key: rule.layout.to_torch(_pick(np.asarray(leaves[rule.path]), rule)) for rule in table}


def torch_shapes(table: Sequence[Rule], target: Params) -> dict[str, tuple[int, ...]]:
    """Shape of every key of the state dict that fits `target` (parameters or abstract shapes).

    Raises:
        ConversionError: the table does not cover the target exactly once.
    """
    shapes = {path: tuple(x.shape) for path, x in flatten(target).items()}
    _check_coverage(table, shapes)
    # Arrays without memory: only their shapes pass through the layouts.
    ghosts = {path: np.broadcast_to(np.float32(0), shape) for path, shape in shapes.items()}
    return {rule.key: rule.layout.to_torch(_pick(ghosts[rule.path], rule)).shape for rule in table}


def _pick(array: np.ndarray, rule: Rule) -> np.ndarray:
    return array if rule.index is None else array[rule.index]


def _join(arrays: list[np.ndarray], rules: list[Rule]) -> np.ndarray:
    """The parameter from the `arrays` of its rules; `_check_coverage` has found the rules complete."""
    return arrays[0] if rules[0].index is None else np.stack(arrays)


def _check_coverage(table: Sequence[Rule], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Every key once, every element of every parameter once, nothing else."""
    wanted: set[tuple[str, int | None]] = set()
    stacked = {rule.path for rule in table if rule.index is not None}
    for path, shape in shapes.items():
        wanted |= {(path, i) for i in range(shape[0])} if path in stacked else {(path, None)}
    given = [(rule.path, rule.index) for rule in table]
    problems = [f"two rules for the key {key}" for key in _repeated(rule.key for rule in table)]
    problems += [f"two rules for the parameter {_name(where)}" for where in _repeated(given)]
    problems += [
        f"no rule for the parameter {_name(where)}" for where in sorted(wanted - set(given), key=str)
    ]
    problems += [f"no parameter {_name(where)}" for where in sorted(set(given) - wanted, key=str)]
    raise_all("the table does not fit the network", problems)


def _repeated(items: Iterable[T]) -> list[T]:
    return [item for item, count in Counter(items).items() if count > 1]


def _name(where: tuple[str, int | None]) -> str:
    return where[0] if where[1] is None else f"{where[0]}[{where[1]}]"


def raise_all(summary: str, problems: list[str]) -> None:
    """Raise `ConversionError` with one problem per line, if there are any."""
    if problems:
        raise ConversionError(f"{summary} ({counted(len(problems), 'problem')}):\n  " + "\n  ".join(problems))
