"""What objectives and the loop read of a configuration, and what it may leave out."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol


class Section(Protocol):
    """Settings by attribute and by name, as `ml_collections.ConfigDict` has them; a stage has some of its own."""

    def __getattr__(self, name: str, /) -> Any: ...

    def __getitem__(self, name: str, /) -> Any: ...

    def __contains__(self, name: object, /) -> bool: ...

    def get(self, name: str, default: Any = None, /) -> Any:
        """Return a setting, or `default` where it is missing."""
        ...


class Optimizer(Protocol):
    """What `state.make_optimizer` reads."""

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        ...

    @property
    def lr(self) -> float:
        """Peak of the learning rate."""
        ...

    @property
    def final_lr(self) -> float:
        """Share of the peak at the end."""
        ...

    @property
    def warmup(self) -> int:
        """Steps until the peak."""
        ...

    @property
    def betas(self) -> tuple[float, float]:
        """Of AdamW."""
        ...

    @property
    def weight_decay(self) -> float:
        """Of AdamW."""
        ...

    @property
    def clip(self) -> float:
        """Global norm that gradients are clipped to."""
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
    mesh: Mapping[str, int]
    sharding_rules: tuple[tuple[str, tuple[str, ...]], ...]
    data: Section
    train: Train


# What a configuration may leave out, and what holds then.
OPTIONAL: Mapping[str, Any] = MappingProxyType(
    {
        "precision": "fp32",
        "remat": False,
        "floor": 1e-6,
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


def optional(section: Section | Mapping[str, Any], path: str) -> Any:
    """Return a setting that may be missing.

    Args:
        section: the part of the configuration that holds it.
        path: its name within the configuration, a key of `OPTIONAL`.
    """
    default, name = OPTIONAL[path], path.rpartition(".")[2]
    return section.get(name, default)
