"""The interface between a training stage and the train loop, and the table of stages."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from diffbir_jax.console.errors import UserError
from diffbir_jax.data.batches import Batches
from diffbir_jax.training.config import Config
from diffbir_jax.training.state import LossFn, Params
from diffbir_jax.training.turns import Turn

# Stage -> module of this package whose `make(config)` returns its Objective.
STAGES = {
    "rm": "rm",
    "vae": "vae",
    "decoder": "decoder",
    "prior": "prior",
    "control": "control_latents",
    "regeneration": "regeneration",
    "joint": "joint",
    "estimate": "estimate",
    "one_step": "one_step",
    "one_step_lora": "one_step_lora",
    "finetune": "finetune",
    "finetune_one_step": "finetune_one_step",
}


@dataclass(frozen=True)
class Objective:
    """One stage of training.

    Attributes:
        params: initial trainable parameters.
        frozen: parameters that the loss needs and that training does not change.
        loss: (params, frozen, batch, key) -> (scalar, metrics); the loop traces and differentiates it.
        batches: host batches by step. A batch is a pure function of its step, so a step number is a data position.
        validate: (EMA params, frozen) -> (metrics, picture (H, W, 3) uint8) on held-out crops.
        export: EMA params -> {file name: params}; these files are written at the end.
        metadata: entries of these files' headers beside those that every stage has.
        headers: entries of single files' headers, by the name of the file.
        turns: parts of a step, if several networks have losses of their own; the first one's loss is `loss`. Empty: all
            of `params` is trained by `loss`.
    """

    params: Params
    frozen: Params
    loss: LossFn
    batches: Batches
    validate: Callable[[Params, Params], tuple[dict[str, float], np.ndarray]]
    export: Callable[[Params], dict[str, Params]]
    metadata: dict[str, str] = field(default_factory=dict)
    headers: Mapping[str, dict[str, str]] = field(default_factory=dict)
    turns: tuple[Turn, ...] = ()


def make_objective(config: Config) -> Objective:
    """Build the objective that `config.objective` names.

    Raises:
        ValueError: if there is no such stage.
    """
    if config.objective not in STAGES:
        raise UserError(f"config.objective is {config.objective!r}, allowed are {', '.join(STAGES)}.")
    # Import only the stage in use: the others bring networks and libraries that this run does not need.
    return importlib.import_module(f"diffbir_jax.training.{STAGES[config.objective]}").make(config)
