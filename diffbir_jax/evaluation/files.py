"""Weights of metrics: where they lie, and what is said where they do not."""

from pathlib import Path

from diffbir_jax.evaluation.metric import Setup, UnavailableError


def weights_file(setup: Setup, name: str, remedy: str) -> Path:
    """Return the path of `name` in the folder of weights.

    Args:
        setup: whose `weights` is the folder.
        name: name of the file.
        remedy: how to get it, a sentence without its full stop.

    Raises:
        UnavailableError: no folder was given, or it has no such file; the message ends with `remedy`.
    """
    if setup.weights is None:
        raise UnavailableError(
            f"{name} is needed and no folder of weights is given (--metric-weights). {remedy}"
        )
    path = setup.weights.expanduser() / name
    if not path.is_file():
        raise UnavailableError(f"{path} is missing. {remedy}")
    return path
