"""Training steps of a LoRA on the small UNet: OSEDiff's regulariser, and HYPIR's generator through the decoder."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from diffbir_jax.conversion.engine import Params
from diffbir_jax.diffusion.schedule import make_schedule, q_sample
from diffbir_jax.models.apply import apply
from diffbir_jax.parity import networks
from diffbir_jax.parity.case import NETWORK, Arrays, Case, Limit, Values, matching, nhwc
from diffbir_jax.parity.lora import HYPIR, REGULARISER, Adapter
from diffbir_jax.parity.training import AdamW, adamw_changes, beyond_rounding, norms
from diffbir_jax.training.vsd import predict_clean

SCHEDULE = make_schedule()
HYPIR_T = 200
Loss = Callable[[Arrays, str], tuple[jax.Array, Params]]


def cases(make: Callable[..., Case], keys: Sequence[str], salt: str) -> Iterator[Case]:
    """Per run, the gradients and what AdamW makes of them.

    Args:
        make: (name, outputs, inputs, ...) -> case.
        keys: of the file.
        salt: of the weights.
    """
    distilled = ["vsd|latents", "vsd|noise", "vsd|timesteps", "context"]
    restored = ["base|z_lq", "context", "gt"]
    yield from _cases(make, keys, salt, "vsd_lora", REGULARISER, regulariser_step, distilled, 5e-5)
    yield from _cases(make, keys, salt, "hypir_train", HYPIR, generator_step, restored, 1e-5)


def _cases(
    make: Callable[..., Case],
    keys: Sequence[str],
    salt: str,
    run: str,
    adapter: Adapter,
    step: Loss,
    inputs: list[str],
    rate: float,
) -> Iterator[Case]:
    gradients, changes = (matching(keys, f"{run}|{part}|*") for part in ("grad", "adamw"))
    total, names = f"{run}|grad_norm_total", f"{run}|grad_names"

    def computed(golden: Arrays) -> Values:
        loss, gradient = step(golden, salt)
        return {f"{run}|loss": loss} | _reported(run, golden[names], adapter.by_key(gradient), gradients)

    def updated(golden: Arrays) -> Values:
        known = {key: golden[key.replace("|adamw|", "|grad|")] for key in changes}
        rest = np.sqrt(np.square(golden[total]) - sum(np.sum(np.square(x)) for x in known.values()))
        return adamw_changes(adapter.module, known, AdamW(lr=rate, clip=1.0), salt, float(rest))

    outputs = [f"{run}|grad_norms", total, *gradients]
    if set(outputs) & set(keys):
        yield make(f"{run}|gradients", [f"{run}|loss", *outputs], [*inputs, names], compute=computed)
        limit = Limit(NETWORK.value, beyond_rounding)
        yield make(f"{run}|adamw", changes, [total, *gradients], limit, updated)


def regulariser_step(golden: Arrays, salt: str) -> tuple[jax.Array, Params]:
    """OSEDiff's fake score on detached latents: the loss and the gradient of its LoRA."""
    latents, noise = nhwc(golden["vsd|latents"]), nhwc(golden["vsd|noise"])
    t, context = jnp.asarray(golden["vsd|timesteps"], jnp.int32), jnp.asarray(golden["context"][:1])
    unet = networks.weights("unet", "small", salt)
    return _follow(REGULARISER.weights(salt), unet, latents, t, noise, jnp.repeat(context, len(t), 0))


def generator_step(golden: Arrays, salt: str) -> tuple[jax.Array, Params]:
    """HYPIR's mean squared error between decoded images and the truth: the loss and the gradient of its LoRA."""
    z, gt = nhwc(golden["base|z_lq"]), nhwc(golden["gt"])
    unet, vae = (networks.weights(name, "small", salt) for name in ("unet", "vae"))
    return _restore(HYPIR.weights(salt), unet, vae, z, jnp.asarray(golden["context"][: len(z)]), gt)


@jax.jit
@jax.value_and_grad
def _follow(
    lora: Params, base: Params, latents: jax.Array, t: jax.Array, noise: jax.Array, context: jax.Array
) -> jax.Array:
    z_t = q_sample(SCHEDULE, latents, t, noise)
    output = apply(networks.module("unet", "small"), REGULARISER.merged(base, lora), z_t, t, context)
    return jnp.mean(jnp.square(output - noise))


@jax.jit
@jax.value_and_grad
def _restore(
    lora: Params, base: Params, vae: Params, z: jax.Array, context: jax.Array, gt: jax.Array
) -> jax.Array:
    t = jnp.full(len(z), HYPIR_T, jnp.int32)
    output = apply(networks.module("unet", "small"), HYPIR.merged(base, lora), z, t, context)
    autoencoder = networks.module("vae", "small")
    latents = predict_clean(SCHEDULE, z, output, t) / autoencoder.config.scale_factor
    return jnp.mean(jnp.square(apply(autoencoder, vae, latents, method="decode") - gt))


def _reported(run: str, names: np.ndarray, gradient: dict[str, np.ndarray], keys: Sequence[str]) -> Values:
    if set(names) != set(gradient):
        raise ValueError(f"the parameters differ: {sorted(set(names) ^ set(gradient))[:3]}")
    lengths = norms(gradient, names)
    values: dict[str, np.ndarray] = {f"{run}|grad_norms": lengths}
    values[f"{run}|grad_norm_total"] = np.sqrt(np.sum(np.square(lengths)))
    return values | {key: gradient[key.split("|")[2]] for key in keys}
