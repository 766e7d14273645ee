"""Noise schedules, step tables, and samplers that drive a closed-form function in place of the network."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffbir_jax.diffusion.schedule import make_schedule
from diffbir_jax.parity.case import (
    SAMPLER,
    SCHEDULE,
    Arrays,
    Case,
    Limit,
    Values,
    elementwise,
    matching,
    nchw,
    nhwc,
)
from diffbir_jax.sampling.denoiser import Denoiser, DenoiserInputs
from diffbir_jax.sampling.loop import sample
from diffbir_jax.sampling.samplers import SAMPLERS, make_sampler
from diffbir_jax.sampling.timesteps import edm_schedule, spaced_steps

SCHEDULES = {
    "eps": make_schedule(),
    "v": make_schedule(zero_terminal_snr=True, parameterization="v"),
}
SPACED_TABLES = {
    "spaced_timesteps": lambda steps: steps.level.timestep,
    "spaced_posterior_variance": lambda steps: steps.variance,
    "spaced_coef1": lambda steps: steps.coef_x0,
    "spaced_coef2": lambda steps: steps.coef_x,
}
# Embeddings that stand for the prompt and for the negative prompt: one number per image.
TEXT = ((1.0, -1.0), (0.5, 0.25))


def cases(file: str, keys: Sequence[str], salt: str) -> Iterator[Case]:
    """The cases of samplers.npz, for each parameterization: its tables, and every sampler."""
    for param in SCHEDULES:
        yield from _table_cases(file, keys, param)
    runs: dict[str, list[str]] = {}
    for key in matching(keys, "*|*|steps=*|out"):
        runs.setdefault("|".join(key.split("|")[:2]), []).append(key)
    for name, outputs in runs.items():
        counts = [key.removesuffix("out") + "noise_count" for key in outputs]
        known = name.split("|")[1] in SAMPLERS
        inputs = ["x_T", "c_img", "noise_tape", *counts]
        yield Case(file, name, outputs, inputs, SAMPLER, _Trajectories(outputs) if known else None)


def _table_cases(file: str, keys: Sequence[str], param: str) -> Iterator[Case]:
    # The first sigma is 1e4, where float32 has steps of 1e-3.
    relative = Limit(SCHEDULE.value, elementwise)
    kinds = [
        ("alphas_cumprod", SCHEDULE, ["alphas_cumprod"]),
        ("spaced tables", SCHEDULE, [f"{name}|*" for name in SPACED_TABLES]),
        ("edm tables", relative, ["edm_timesteps|*", "edm_sigmas|*"]),
    ]
    for title, limit, patterns in kinds:
        if outputs := matching(keys, *(f"{param}|{pattern}" for pattern in patterns)):
            yield Case(file, f"{param}|{title}", outputs, (), limit, _Tables(outputs))


class _Tables:
    """Makes the arrays PARAM|TABLE|STEPS."""

    def __init__(self, outputs: Sequence[str]):
        self.outputs = outputs

    def __call__(self, _: Arrays) -> Values:
        return {key: table(key) for key in self.outputs}


def table(key: str) -> np.ndarray:
    """One array PARAM|TABLE|STEPS; the reference's spaced tables begin with the cleanest timestep."""
    param, name, *steps = key.split("|")
    schedule = SCHEDULES[param]
    if name == "alphas_cumprod":
        return schedule.alphas_cumprod
    if name.startswith("edm_"):
        timesteps, sigmas = edm_schedule(schedule, int(steps[0]))
        return timesteps if name == "edm_timesteps" else sigmas
    return np.asarray(SPACED_TABLES[name](spaced_steps(schedule, int(steps[0]))))[::-1]


class _Trajectories:
    """Runs the samplings that the keys PARAM|SAMPLER|steps=|cfg=|rescale=|churn=|out describe."""

    def __init__(self, outputs: Sequence[str]):
        self.outputs = outputs

    def __call__(self, golden: Arrays) -> Values:
        return {key: nchw(trajectory(key, golden)) for key in self.outputs}


def trajectory(key: str, golden: Arrays) -> jax.Array:
    """The result (B, h, w, c) of one sampling.

    Args:
        key: PARAM|SAMPLER|steps=|cfg=|rescale=|churn=|out.
        golden: "x_T", "c_img", "noise_tape" and the key's "noise_count", as stored.
    """
    param, name, *rest = key.removesuffix("|out").split("|")
    options = dict(part.split("=") for part in rest)
    sampler, steps = make_sampler(
        name,
        SCHEDULES[param],
        int(options["steps"]),
        cfg_scale=float(options["cfg"]),
        rescale_cfg=options["rescale"] == "1",
    )
    image = nhwc(golden["c_img"])
    cond, uncond = ({"image": image, "text": jnp.asarray(text)[:, None, None, None]} for text in TEXT)
    return sample(
        sampler,
        Denoiser(toy_model, SCHEDULES[param].parameterization),
        DenoiserInputs(None, cond, uncond),
        nhwc(golden["x_T"]),
        steps,
        nhwc(_noise(golden, key, jax.tree.leaves(steps)[0].shape[0])),
    )


def _noise(golden: Arrays, key: str, steps: int) -> np.ndarray:
    """What the reference drew, in order; zeros for the steps that drew nothing."""
    count = int(golden[key.removesuffix("out") + "noise_count"])
    drawn = golden["noise_tape"][: min(count, steps)]
    return np.concatenate(
        [drawn, np.zeros_like(golden["noise_tape"], shape=(steps - len(drawn), *drawn.shape[1:]))]
    )


def toy_model(params: Any, x: jax.Array, t: jax.Array, cond: dict[str, jax.Array]) -> jax.Array:
    """The function that stands for the network; shapes as in `Denoiser`."""
    time = t.astype(jnp.float32)[:, None, None, None] / 1000
    return jnp.tanh(0.7 * x + 0.3 * cond["image"] - 0.2 * time) * (0.8 + 0.1 * time) + 0.05 * cond["text"]
