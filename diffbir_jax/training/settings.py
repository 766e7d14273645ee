"""Checks of the configuration before a run starts."""

from collections.abc import Iterator

from diffbir_jax.console.errors import UserError
from diffbir_jax.training.config import Config, Train, optional

COUNTS = {
    "train": ("steps", "log_every", "eval_every", "checkpoint_every", "keep"),
    "data": ("batch_size", "validation_size"),
}


def check_config(config: Config) -> None:
    """Check the settings that every run has, and report all problems at once.

    Raises:
        ValueError: settings are not allowed; the message lists all of them.
    """
    if "objective" not in config:
        raise UserError(
            "this configuration describes data alone, as it names no config.objective: look at it with "
            "python -m diffbir_jax.data.preview"
        )
    if problems := [*_problems(config), *_problems_of_watching(config.train)]:
        raise UserError("; ".join(problems))


def _problems(config: Config) -> Iterator[str]:
    """Yield the problems of settings that every run has."""
    options = config.train
    for part, names in COUNTS.items():
        for name in names:
            if config[part][name] < 1:
                yield f"config.{part}.{name} is {config[part][name]}, must be at least 1"
    for name in ("lr", "clip"):
        # "not > 0" instead of "<= 0" also catches NaN.
        if not options[name] > 0:
            yield f"config.train.{name} is {options[name]}, must be above 0"
    for name, shares in {"ema_decay": (options.ema_decay,), "betas": options.betas}.items():
        if not all(0 <= share < 1 for share in shares):
            yield f"config.train.{name} is {shares}, must be in [0, 1)"


def _problems_of_watching(options: Train) -> Iterator[str]:
    """Yield the problems of settings that may be missing or None."""
    for name, least in {"diverged_above": 1, "peak_tflops": 0}.items():
        if (value := optional(options, f"train.{name}")) is not None and not value > least:
            yield f"config.train.{name} is {value}, must be above {least}, or None"
    steps, rule = (optional(options, f"train.{name}") for name in ("profile", "keep_best"))
    if steps is not None and not (len(steps) == 2 and 1 <= steps[0] <= steps[1]):
        yield f"config.train.profile is {tuple(steps)}, must be the first and the last step to trace, or None"
    if rule is not None and rule.rpartition(":")[2] not in ("min", "max"):
        yield f"config.train.keep_best is {rule!r}, must be a validation metric with :min or :max, or None"
