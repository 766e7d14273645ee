"""The settings that objectives and the loop read from a configuration, and the defaults of optional ones."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol

from diffbir_jax.console.section import Section


# Protocols, because ConfigDict has no static fields: with them the type checker knows the settings.
class Optimizer(Protocol):
    """Settings that `state.make_optimizer` reads."""

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        ...

    @property
    def lr(self) -> float:
        """Peak learning rate."""
        ...

    @property
    def final_lr(self) -> float:
        """Final learning rate as a share of the peak."""
        ...

    @property
    def warmup(self) -> int:
        """Steps until the peak."""
        ...

    @property
    def betas(self) -> tuple[float, float]:
        """Betas of AdamW."""
        ...

    @property
    def weight_decay(self) -> float:
        """Weight decay of AdamW."""
        ...

    @property
    def clip(self) -> float:
        """Largest global norm of the gradient; larger ones are scaled down to it."""
        ...


class Train(Section, Optimizer, Protocol):
    """`config.train`: optimizer, logs and checkpoints; see configs/common.py."""

    accumulate: int
    ema_decay: float
    log_every: int
    eval_every: int
    checkpoint_every: int
    keep: int


class Config(Section, Protocol):
    """A configuration of a stage, see configs/."""

    preset: str
    objective: str
    seed: int
    mesh: Mapping[str, Any]
    sharding_rules: tuple[tuple[str, tuple[str, ...]], ...]
    data: Section
    train: Train


# Optional settings and their defaults. One table, so that every reader uses the same default.
OPTIONAL: Mapping[str, Any] = MappingProxyType(
    {
        "init": None,
        "precision": "fp32",
        "remat": False,
        "floor": 1e-6,
        "task": "sr",
        "weights": MappingProxyType({}),
        "weights.rm": None,
        "weights.unet": None,
        "weights.control": None,
        "data.cache": None,
        "data.captions": None,
        "data.held_out": None,
        "data.teacher": None,
        "train.lr_steps": (),
        "train.keep_best": None,
        "train.diverged_above": None,
        "train.profile": None,
        "train.peak_tflops": None,
        "train.wandb": None,
    }
)


def optional(section: Section, path: str) -> Any:
    """Return a setting that may be missing.

    Args:
        section: the part of the configuration that holds it.
        path: its name within the configuration, a key of `OPTIONAL`.
    """
    # The lookup by path fails for a name that is not in the table: a typo cannot add a silent default.
    default, name = OPTIONAL[path], path.rpartition(".")[2]
    return section.get(name, default)
