"""One training step of either stage on the small networks: loss, gradients, and the AdamW step."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffbir_jax.conversion.engine import Params, export
from diffbir_jax.diffusion.schedule import q_sample, training_target
from diffbir_jax.models.apply import apply
from diffbir_jax.parity import networks
from diffbir_jax.parity.case import NETWORK, SCHEDULE, Arrays, Case, Limit, Values, matching, nchw, nhwc
from diffbir_jax.parity.sampling import SCHEDULES
from diffbir_jax.parity.weights import fill
from diffbir_jax.training.state import make_optimizer


class AdamW(NamedTuple):
    """Settings of `make_optimizer`; the defaults are PyTorch's: no warm-up, no decay of the rate, no clipping."""

    lr: float
    clip: float = 1e9
    final_lr: float = 1.0
    warmup: int = 0
    steps: int = 10
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01


def beyond_rounding(value: np.ndarray, golden: np.ndarray) -> float:
    """Return the largest difference beyond rounding, in units of the golden's largest value.

    Args:
        value: (2, ...): the value, and the resolution of the golden.
        golden: the golden value.
    """
    difference = np.abs(value[0] - golden) - value[1]
    return float(np.maximum(difference, 0.0).max() / np.abs(golden).max())


def cases(file: str, keys: Sequence[str], salt: str) -> Iterator[Case]:
    """Yield the cases of training.npz: stage 2 for each parameterization, then stage 1."""
    for name in SCHEDULES:
        names, gradients, changes = (
            matching(keys, f"{name}|{part}") for part in ("grad_names", "grad|*", "adamw|*")
        )

        # Bound as defaults: the loop changes these names before the cases run.
        def noisy(golden: Arrays, name=name) -> Values:
            return {f"{name}|noisy": nchw(noisy_latent(name, golden))}

        def step(golden: Arrays, name=name, keys=gradients) -> Values:
            return _reported(name, golden, keys, *stage_2(name, golden, salt))

        def update(golden: Arrays, keys=changes) -> Values:
            gradients = {key: golden[key.replace("|adamw|", "|grad|")] for key in keys}
            return adamw_changes("controlnet", gradients, AdamW(lr=1e-4), salt)

        drawn = ["z0", "noise", "timesteps"]
        yield Case(file, f"{name}|noisy", [f"{name}|noisy"], drawn, SCHEDULE, noisy)
        outputs, inputs = (
            [f"{name}|loss", f"{name}|grad_norms", *gradients],
            [*drawn, "condition", "context", *names],
        )
        yield Case(file, f"{name}|gradients", outputs, inputs, NETWORK, step)
        yield Case(file, f"{name}|adamw", changes, gradients, Limit(NETWORK.value, beyond_rounding), update)

    def stage_1_step(golden: Arrays) -> Values:
        return _reported("swinir", golden, [], *stage_1(golden, salt))

    inputs = ["swinir|lq", "swinir|hq", "swinir|grad_names"]
    yield Case(file, "swinir|gradients", ["swinir|loss", "swinir|grad_norms"], inputs, NETWORK, stage_1_step)


def noisy_latent(name: str, golden: Arrays) -> jax.Array:
    """Return the batch's z_t (B, h, w, c) under a parameterization's schedule."""
    return q_sample(SCHEDULES[name], nhwc(golden["z0"]), _timesteps(golden), nhwc(golden["noise"]))


def stage_2(name: str, golden: Arrays, salt: str) -> tuple[float, dict[str, np.ndarray]]:
    """Return the mean squared error of the controlled UNet, and its gradient by the reference's keys of the control."""
    z0, condition, noise = (nhwc(golden[key]) for key in ("z0", "condition", "noise"))
    t, context = _timesteps(golden), jnp.asarray(golden["context"])
    z_t, target = noisy_latent(name, golden), training_target(SCHEDULES[name], z0, t, noise)
    unet, control = (networks.weights(part, "small", salt) for part in ("unet", "controlnet"))
    loss, gradient = _stage_2(control, unet, (z_t, condition, t, context), target)
    return float(loss), _by_key("controlnet", gradient)


def stage_1(golden: Arrays, salt: str) -> tuple[float, dict[str, np.ndarray]]:
    """Return the summed squared error of SwinIR, and its gradient by the reference's keys."""
    lq, hq = (nhwc(golden[f"swinir|{key}"]) for key in ("lq", "hq"))
    loss, gradient = _stage_1(networks.weights("swinir", "small", salt), lq, hq)
    return float(loss), _by_key("swinir", gradient)


def adamw_changes(
    module: str, gradients: Mapping[str, np.ndarray], settings: AdamW, salt: str, rest: float = 0.0
) -> Values:
    """Return PARAM|adamw|KEY -> (2, ...): the change of a parameter in AdamW's first step, and its rounding.

    The step uses the golden gradient, because AdamW multiplies the last digits of gradients near epsilon by 1e4. The
    stored change is the difference of two float32 parameters, so it is exact to one rounding of the parameter.

    Args:
        module: the module of the parameters, see `fill`.
        gradients: PARAM|adamw|KEY -> gradient in PyTorch's layout.
        settings: settings of the optimizer.
        salt: salt of the weights.
        rest: norm of the gradients of all other parameters; clipping needs it.
    """
    before = {key: fill(module, key.split("|")[2], x.shape, salt) for key, x in gradients.items()}
    # One parameter stands for all others, so that the global norm is right.
    others = {"others": np.float32(rest)}
    with jax.numpy_dtype_promotion("standard"):  # optax does not run under strict promotion
        after = jax.device_get(_adamw_step(settings, before | others, dict(gradients) | others))
    return {key: np.stack([after[key] - x, np.spacing(np.abs(x))]) for key, x in before.items()}


def norms(gradient: dict[str, np.ndarray], names: np.ndarray) -> np.ndarray:
    """Return (N,) float64 norms of the gradients of the parameters `names`."""
    # float64: sums of a million squares lose digits in float32.
    return np.array([np.linalg.norm(gradient[name].astype(np.float64)) for name in names])


def _reported(
    name: str, golden: Arrays, keys: Sequence[str], loss: float, gradient: dict[str, np.ndarray]
) -> Values:
    names = golden[f"{name}|grad_names"]
    if set(names) != set(gradient):
        raise ValueError(f"the parameters differ: {sorted(set(names) ^ set(gradient))[:3]}")
    values = {f"{name}|loss": np.asarray(loss), f"{name}|grad_norms": norms(gradient, names)}
    return values | {key: gradient[key.split("|")[2]] for key in keys}


def _timesteps(golden: Arrays) -> jax.Array:
    return jnp.asarray(golden["timesteps"], jnp.int32)


def _by_key(name: str, gradient: Params) -> dict[str, np.ndarray]:
    network = networks.NETWORKS[name]
    return export(gradient, list(network.rules(network.small)))


@jax.jit
@jax.value_and_grad
def _stage_2(control: Params, unet: Params, inputs: tuple, target: jax.Array) -> jax.Array:
    z_t, condition, t, context = inputs
    controls = apply(networks.module("controlnet", "small"), control, z_t, condition, t, context)
    output = apply(networks.module("unet", "small"), unet, z_t, t, context, controls)
    return jnp.mean(jnp.square(output - target))


@jax.jit
@jax.value_and_grad
def _stage_1(params: Params, lq: jax.Array, hq: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(apply(networks.module("swinir", "small"), params, lq) - hq))


@partial(jax.jit, static_argnums=0)
def _adamw_step(settings: AdamW, params: Params, gradient: Params) -> Params:
    optimizer = make_optimizer(settings)
    update, _ = optimizer.update(gradient, optimizer.init(params), params)
    return cast(Params, optax.apply_updates(params, update))
