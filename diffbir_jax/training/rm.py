"""Stage 1: a restoration module trained with the mean squared error, L_RM = ||RM(I_LQ) - I_HQ||^2."""

import jax
import jax.numpy as jnp
import numpy as np

from diffbir_jax.console.errors import UserError
from diffbir_jax.models.apply import abstract, apply, init
from diffbir_jax.models.presets import get_preset
from diffbir_jax.training.config import Config, optional
from diffbir_jax.training.objective import Objective
from diffbir_jax.training.report import tile_grid
from diffbir_jax.training.sources import to_unit, training_batches
from diffbir_jax.weights.safetensors import load_weights

# Functions of each image's mean squared error. Its logarithm (NAFNet, Chen et al., 2022) is the PSNR up to a factor:
# easy and hard images count the same. The plain mean is dominated by the hardest images.
LOSSES = {"mse": lambda mse, floor: mse, "log_mse": lambda mse, floor: jnp.log(mse + floor)}

# The mean squared error of rounding to 8 bits, of values in [0, 1].
BYTE_ROUNDING = 1.0 / (12.0 * 255.0**2)


def make(config: Config) -> Objective:
    """Build the stage-1 objective; batches hold `lq` and `hq` (B, H, W, 3) uint8.

    Args:
        config: `loss`, "mse" or "log_mse"; `floor`, the mean squared error below which the logarithm flattens (images
            in [0, 1]; 1e-6 if missing), so that nearly clean inputs do not dominate the loss; `weights.rm`, a file to
            start from, may be missing; `task`, "sr", "face" or "denoise", for which network, may be missing, too.

    Raises:
        ValueError: another loss.
    """
    if config.loss not in LOSSES:
        raise UserError(f"config.loss is {config.loss!r}, allowed are {', '.join(LOSSES)}.")
    preset = get_preset(config.preset, optional(config, "task"))
    module, floor = preset.make_rm(), optional(config, "floor")
    train, held_out = training_batches(config)
    sample = to_unit(held_out(0)["lq"])
    start = optional(optional(config, "weights"), "weights.rm")
    params = (
        load_weights(start, abstract(module, sample[:1]))
        if start
        else init(module, jax.random.key(config.seed), sample[:1])
    )

    def loss(params: dict, frozen: dict, batch: dict, key: jax.Array) -> tuple[jax.Array, dict]:
        error = apply(module, params, to_unit(batch["lq"])) - to_unit(batch["hq"])
        mse = jnp.mean(jnp.square(error), axis=(1, 2, 3))
        value = jnp.mean(LOSSES[config.loss](mse, floor))
        return value, {"psnr": jnp.mean(-10.0 * jnp.log10(mse))}

    restore = jax.jit(lambda params, lq: apply(module, params, lq))

    def validate(params: dict, frozen: dict) -> tuple[dict[str, float], np.ndarray]:
        """Loss and PSNR on held-out images, and a picture of some."""
        batch = held_out(0)
        lq, hq = np.asarray(to_unit(batch["lq"])), np.asarray(to_unit(batch["hq"]))
        out = np.clip(np.asarray(restore(params, lq)), 0, 1)
        # The same loss as in training, but of clipped images, as users see them.
        error = LOSSES[config.loss](jnp.mean(jnp.square(out - hq), axis=(1, 2, 3)), floor)
        values = {
            "loss": float(jnp.mean(error)),
            "psnr": mean_psnr(out, hq),
            "psnr_input": mean_psnr(lq, hq),
        }
        return values, tile_grid([lq[:8], out[:8], hq[:8]])

    return Objective(params, {}, loss, train, validate, lambda ema: {"rm": ema})


def mean_psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over images of the PSNR (dB) of (B, H, W, C) images in [0, 1]; equal ones count as rounded to bytes."""
    mse = np.mean(np.square(a - b), axis=(1, 2, 3))
    # A mean with infinity would say nothing.
    return float(np.mean(-10 * np.log10(np.maximum(mse, BYTE_ROUNDING))))
