"""What a stage brings to the train loop, and the table of stages."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from diffbir_jax.console.errors import UserError
from diffbir_jax.data.batches import Batches
from diffbir_jax.training.config import Config
from diffbir_jax.training.state import LossFn, Params

# Stage -> module of this package whose `make(config)` returns its Objective.
STAGES = {
    "rm": "rm",
    "vae": "vae",
    "decoder": "decoder",
    "prior": "prior",
    "control": "control_latents",
    "regeneration": "regeneration",
    "one_step": "one_step",
}


@dataclass(frozen=True)
class Objective:
    """One stage of training.

    Attributes:
        params: initial trainable parameters.
        frozen: parameters that the loss needs and training leaves alone.
        loss: (params, frozen, batch, key) -> (scalar, metrics); traced and differentiated by the loop.
        batches: host batches by step, each a pure function of it (so a step number is a data position).
        validate: (EMA params, frozen) -> (metrics, picture (H, W, 3) uint8) on held-out crops.
        export: EMA params -> {file name: params} written at the end.
        metadata: what the headers of these files say, beside what they say of every stage.
    """

    params: Params
    frozen: Params
    loss: LossFn
    batches: Batches
    validate: Callable[[Params, Params], tuple[dict[str, float], np.ndarray]]
    export: Callable[[Params], dict[str, Params]]
    metadata: dict[str, str] = field(default_factory=dict)


def make_objective(config: Config) -> Objective:
    """Build the objective that `config.objective` names.

    Raises:
        ValueError: if there is no such stage.
    """
    if config.objective not in STAGES:
        raise UserError(f"config.objective is {config.objective!r}, allowed are {', '.join(STAGES)}.")
    return importlib.import_module(f"diffbir_jax.training.{STAGES[config.objective]}").make(config)
