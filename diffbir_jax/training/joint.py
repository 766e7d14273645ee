"""Both stages of DiffBIR together: the restoration module learns from IRControlNet's loss, too.

The paper trains them one after the other: stage 1 by its squared error, then stage 2 on what stage 1 makes. Here one
step trains both, loss = ||RM(I_LQ) - I_HQ||^2 + weight x diffusion loss, and the gradient of the second term reaches
the restoration module through the frozen encoder of the autoencoder. Stage 1's error stays in the loss, so that it
remains faithful, and it is reported (`psnr_rm`).
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from diffbir_jax.console.errors import UserError
from diffbir_jax.models.apply import Params, apply
from diffbir_jax.training.config import Config
from diffbir_jax.training.control_images import abstract_frozen
from diffbir_jax.training.objective import Objective
from diffbir_jax.training.regeneration import Parts, options_of, prepare, preset_of, start_of
from diffbir_jax.training.rm import mean_psnr
from diffbir_jax.training.sampled import Validate
from diffbir_jax.training.sources import to_unit
from diffbir_jax.training.state import Batch, LossFn
from diffbir_jax.training.turns import Turn

Gradient = Literal["through", "stop", "alternate"]


def make(config: Config) -> Objective:
    """Build the objective; batches and settings are as for stage 2 from images, see `regeneration.make`.

    Args:
        config: in addition `joint`: `weight` of the diffusion loss, at least 0; `gradient`, whether it reaches the
            restoration module: "through" the encoder, "stop" (both stages train in one step, each by its own loss),
            or "alternate" (every step first trains the restoration module by both losses, then the rest by the
            diffusion loss, each on a half of the batch).

    Raises:
        FileNotFoundError: weights are missing.
        ValueError: as in `regeneration.make`, a setting of `joint` is not allowed, the preset has no restoration
            module, or crops are encoded once (`data.cache`), which fixes stage 1.
    """
    preset = preset_of(config)
    check(config, preset.rm is not None)
    options = options_of(config, config.model.control.condition)
    parts = prepare(config, preset, options, list(abstract_frozen(preset, options)))
    params = {"rm": parts.weights["rm"]} | start_of(config, preset, options, parts.weights["unet"])
    frozen = {name: x for name, x in parts.frozen.items() if name != "rm"}
    loss = joint_loss(parts, float(config.joint.weight), through=config.joint.gradient != "stop")
    return Objective(
        params,
        frozen,
        loss,
        parts.train,
        _validation(config, parts),
        lambda ema: ema,
        {"condition": options.condition, "gradient": config.joint.gradient},
        turns=_turns(loss, params) if config.joint.gradient == "alternate" else (),
    )


def check(config: Config, has_rm: bool) -> None:
    """Raise ValueError for settings that joint training cannot use."""
    gradient, weight = config.joint.gradient, config.joint.weight
    if gradient not in get_args(Gradient):
        raise UserError(f"config.joint.gradient is {gradient!r}, allowed are {', '.join(get_args(Gradient))}")
    if not 0 <= weight < np.inf:
        raise UserError(f"config.joint.weight is {weight}, must be at least 0 and finite")
    if not has_rm:
        raise UserError("joint training needs a restoration module: leave config.model.stage1 at True")
    if config.data.get("cache"):
        raise UserError(
            "config.data.cache fixes the result of stage 1, which joint training changes: set it to None"
        )


def joint_loss(parts: Parts, weight: float, through: bool) -> LossFn:
    """Return the loss of both stages; (params, frozen, batch, key) -> (scalar, metrics).

    Args:
        parts: of stage 2; `params` holds "rm" beside what stage 2 trains.
        weight: of the diffusion loss.
        through: whether the gradient of the diffusion loss reaches the restoration module.
    """
    rm, stage2 = parts.preset.make_rm(parts.options.dtype), parts.stage2

    def loss(params: Params, frozen: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, dict]:
        restored = apply(rm, params["rm"], to_unit(batch["lq"])).astype(jnp.float32)
        squares = jnp.mean(jnp.square(restored - to_unit(batch["hq"])), axis=(1, 2, 3))
        seen = restored if through else jax.lax.stop_gradient(restored)
        diffusion, said = stage2.loss(params, frozen, batch | {"restored": seen}, key)
        said |= {"diffusion": diffusion, "psnr_rm": jnp.mean(-10 * jnp.log10(squares))}
        return jnp.mean(squares) + weight * diffusion, said

    return loss


def _turns(loss: LossFn, params: Params) -> tuple[Turn, ...]:
    """Stage 1's turn and that of the rest: in the second, the error of stage 1 has no gradient."""
    return Turn(loss, (("rm",),)), Turn(loss, (tuple(name for name in params if name != "rm"),))


def _validation(config: Config, parts: Parts) -> Validate:
    """The validation of stage 2 with the trained restoration module, and the PSNR of stage 1 in dB."""
    rm = parts.preset.make_rm(parts.options.dtype)
    restore = jax.jit(lambda params, lq: jnp.clip(apply(rm, params, to_unit(lq)), 0.0, 1.0))
    inner = parts.validation(config, lambda params, frozen: params)
    held_out = parts.examples

    def validate(params: Params, frozen: Params) -> tuple[dict[str, float], np.ndarray]:
        metrics, picture = inner(params, frozen | {"rm": params["rm"]})
        clean = np.asarray(restore(params["rm"], held_out["lq"]), np.float32)
        return metrics | {"psnr_rm": mean_psnr(clean, np.asarray(to_unit(held_out["hq"])))}, picture

    return validate
