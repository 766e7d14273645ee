"""Training steps of a LoRA on the small UNet: OSEDiff's regulariser, and HYPIR's generator through the decoder.

The goldens hold the gradients and the first AdamW step of each run.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from diffbir_jax.conversion.engine import Params
from diffbir_jax.diffusion.schedule import make_schedule
from diffbir_jax.models.presets import get_preset
from diffbir_jax.parity import networks
from diffbir_jax.parity.case import NETWORK, Arrays, Case, Limit, Values, matching, nhwc
from diffbir_jax.parity.lora import HYPIR, REGULARISER, Adapter
from diffbir_jax.parity.training import AdamW, adamw_changes, beyond_rounding, norms
from diffbir_jax.training.distillation import Distillation
from diffbir_jax.training.generator import LORA, Generator
from diffbir_jax.training.one_step_lora import data_terms
from diffbir_jax.training.vsd import regulariser_loss

SCHEDULE = make_schedule()
CFG_SCALE = 7.5
# What configs/hypir.py and configs/osediff.py run, on the small networks.
SMALL = replace(
    get_preset("hypir"), unet=networks.NETWORKS["unet"].small, vae=networks.NETWORKS["vae"].small, text=None
)
GENERATOR = Generator(SMALL, HYPIR.scale)
DISTILLATION = Distillation(SCHEDULE, GENERATOR.unet, REGULARISER.scale, CFG_SCALE)


@dataclass(frozen=True)
class Run:
    """One training step with known gradients and a known AdamW step.

    Attributes:
        name: first part of the keys.
        adapter: the trained LoRA.
        step: (inputs, salt) -> (loss, gradient).
        inputs: keys that `step` reads.
        rate: learning rate; the norm of all gradients is clipped to 1.
    """

    name: str
    adapter: Adapter
    step: Callable[[Arrays, str], tuple[jax.Array, Params]]
    inputs: Sequence[str]
    rate: float

    def gradients(self, golden: Arrays, salt: str, keys: Sequence[str]) -> Values:
        """Return the loss, the norm of every gradient and of all together, and the gradients of `keys`."""
        loss, tree = self.step(golden, salt)
        gradient, names = self.adapter.by_key(tree), golden[f"{self.name}|grad_names"]
        # A parameter that is missing on one side would shift all norms after it.
        if set(names) != set(gradient):
            raise ValueError(f"the parameters differ: {sorted(set(names) ^ set(gradient))[:3]}")
        lengths = norms(gradient, names)
        values = {"loss": loss, "grad_norms": lengths, "grad_norm_total": np.linalg.norm(lengths)}
        named = {f"{self.name}|{key}": x for key, x in values.items()}
        return named | {key: gradient[key.split("|")[2]] for key in keys}

    def changes(self, golden: Arrays, salt: str, keys: Sequence[str]) -> Values:
        """Return the changes of AdamW's first step for `keys`, from the golden gradients; see `adamw_changes`."""
        # Only some gradients are stored. Clipping needs the norm of all, so the rest follows from the total.
        known = {key: golden[key.replace("|adamw|", "|grad|")] for key in keys}
        squares = sum(np.sum(np.square(x)) for x in known.values())
        rest = np.sqrt(np.square(golden[f"{self.name}|grad_norm_total"]) - squares)
        return adamw_changes(self.adapter.module, known, AdamW(self.rate, clip=1.0), salt, float(rest))


def cases(make: Callable[..., Case], keys: Sequence[str], salt: str) -> Iterator[Case]:
    """Yield two cases per run: the gradients, and the AdamW step.

    Args:
        make: (name, outputs, inputs, ...) -> case.
        keys: keys of the file; without gradients there are no cases.
        salt: salt of the weights.
    """
    for run in RUNS:
        grads, changes = (matching(keys, f"{run.name}|{part}|*") for part in ("grad", "adamw"))
        if not grads:
            continue
        names, total, *others = (
            f"{run.name}|{key}" for key in ("grad_names", "grad_norm_total", "loss", "grad_norms")
        )
        step = partial(run.gradients, salt=salt, keys=grads)
        yield make(f"{run.name}|gradients", [*others, total, *grads], [*run.inputs, names], compute=step)
        update, limit = partial(run.changes, salt=salt, keys=changes), Limit(NETWORK.value, beyond_rounding)
        yield make(f"{run.name}|adamw", changes, [total, *grads], limit, update)


def regulariser_step(golden: Arrays, salt: str) -> tuple[jax.Array, Params]:
    """Return the loss of OSEDiff's fake score on detached latents, and the gradient of its LoRA."""
    latents, noise = nhwc(golden["vsd|latents"]), nhwc(golden["vsd|noise"])
    t, context = jnp.asarray(golden["vsd|timesteps"], jnp.int32), jnp.asarray(golden["context"][:1])
    unet = networks.weights("unet", "small", salt)
    return _follow(REGULARISER.weights(salt), unet, latents, t, noise, jnp.repeat(context, len(t), 0))


def generator_step(golden: Arrays, salt: str) -> tuple[jax.Array, Params]:
    """Return HYPIR's mean squared error between decoded images and the truth, and the gradient of its LoRA."""
    z, gt = nhwc(golden["base|z_lq"]), nhwc(golden["gt"])
    unet, vae = (networks.weights(name, "small", salt) for name in ("unet", "vae"))
    return _restore(HYPIR.weights(salt), unet, vae, z, jnp.asarray(golden["context"][: len(z)]), gt)


@jax.jit
@jax.value_and_grad
def _follow(
    lora: Params, base: Params, latents: jax.Array, t: jax.Array, noise: jax.Array, context: jax.Array
) -> jax.Array:
    return regulariser_loss(SCHEDULE, DISTILLATION.fake(lora, base, context), latents, t, noise)


@jax.jit
@jax.value_and_grad
def _restore(
    lora: Params, base: Params, vae: Params, z: jax.Array, context: jax.Array, gt: jax.Array
) -> jax.Array:
    z0 = GENERATOR.predict({LORA: {"unet": lora}}, {"unet": base}, z, context)
    return data_terms({"mse": 1.0}, {}, GENERATOR.decode({"vae": vae}, z0), gt)["mse"]


_DISTILLED = ("vsd|latents", "vsd|noise", "vsd|timesteps", "context")
RUNS = (
    Run("vsd_lora", REGULARISER, regulariser_step, _DISTILLED, 5e-5),
    Run("hypir_train", HYPIR, generator_step, ("base|z_lq", "context", "gt"), 1e-5),
)
