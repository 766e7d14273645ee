"""Shared code of metrics that run a network: the path of the weights, and a lock."""

import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from diffbir_jax.evaluation.metric import Setup, UnavailableError

P = ParamSpec("P")
R = TypeVar("R")


def weights_file(setup: Setup, name: str, remedy: str) -> Path:
    """Return the path of `name` in the folder of weights.

    Args:
        setup: its `weights` is the folder.
        name: name of the file.
        remedy: how to get it, a sentence without its full stop.

    Raises:
        UnavailableError: no folder was given, or the file is not in it; the message ends with `remedy`.
    """
    if setup.weights is None:
        raise UnavailableError(
            f"{name} is needed and no folder of weights is given (--metric-weights). {remedy}"
        )
    path = setup.weights.expanduser() / name
    if not path.is_file():
        raise UnavailableError(f"{path} is missing. {remedy}")
    return path


def one_at_a_time(function: Callable[P, R]) -> Callable[P, R]:
    """Return `function` with a lock: one thread at a time.

    One image already keeps all cores busy, and several would need more memory. Some networks also keep their
    activations, which threads would overwrite.
    """
    lock = threading.Lock()

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        with lock:
            return function(*args, **kwargs)

    return guarded
