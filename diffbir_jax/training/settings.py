"""Checks of the configuration before a run starts."""

from collections.abc import Iterator
from pathlib import Path

from diffbir_jax.console.errors import UserError
from diffbir_jax.imaging.listing import find_images
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
            "diffbir data preview"
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
    size = config.data.validation_size
    if "sampling" in config and not 0 <= config.sampling.images <= size:
        yield f"config.sampling.images is {config.sampling.images}, must be in 0..{size}, config.data.validation_size"
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


def check_photos(config: Config) -> None:
    """Refuse folders of photos that are not there or hold too few, before anything is loaded.

    Raises:
        UserError, ImageFileError: a folder is missing, or holds no photo, or one that cannot also be held out.
    """
    data = config.data
    if "source" in data:
        fields = {"folder": ("path",), "pairs": ("lq", "hq")}.get(data.source.kind, ())
        named = {f"config.data.source.{field}": data.source[field] for field in fields}
        folders = {name: folder for name, folder in named.items() if "://" not in folder}
    else:
        folders = {"config.data.folder": data.folder, "config.data.held_out": optional(data, "data.held_out")}
    for name, folder in folders.items():
        if folder and not Path(folder).expanduser().is_dir():
            raise UserError(f"{folder} ({name}): no such folder; give a folder of photos, --photos DIR")
    if not (optional(data, "data.held_out") or data.get("validation")):
        for folder in folders.values():
            _check_two(folder)


def _check_two(folder: str | None) -> None:
    """Refuse a folder with a single photo: one of them is held out to validate on."""
    if folder and len(find_images(Path(folder).expanduser())) < 2:
        raise UserError(f"{folder}: holds one photo; give at least 2, as one is held out to validate on")
