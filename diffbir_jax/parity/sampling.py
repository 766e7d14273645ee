"""Noise schedules, step tables, and samplers with a closed-form function in place of the network."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffbir_jax.diffusion.schedule import make_schedule
from diffbir_jax.files.trees import Params
from diffbir_jax.parity.case import (
    SAMPLER,
    SCHEDULE,
    Arrays,
    Case,
    Limit,
    Values,
    absolute_in_reach,
    elementwise,
    matching,
    nchw,
    nhwc,
    relative,
)
from diffbir_jax.parity.replay import STEPS, Replay
from diffbir_jax.sampling.ddpm import spaced_steps
from diffbir_jax.sampling.denoiser import Denoiser, DenoiserInputs
from diffbir_jax.sampling.loop import sample
from diffbir_jax.sampling.samplers import SAMPLERS, make_sampler
from diffbir_jax.sampling.tables import LinearStep, Scales, cfg_scales
from diffbir_jax.sampling.timesteps import Span, edm_stops

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
# Embeddings of the prompt and of the negative prompt: one number per image.
TEXT = ((1.0, -1.0), (0.5, 0.25))
# Largest sigma with churn in the golden trajectories.
MAX_CHURN = 300.0


def cases(file: str, keys: Sequence[str], salt: str) -> Iterator[Case]:
    """Yield the cases of samplers.npz, for each parameterization: its tables, and every sampler."""
    for param in SCHEDULES:
        yield from _table_cases(file, keys, param)
    runs: dict[str, list[str]] = {}
    for key in matching(keys, "*|*|steps=*|out"):
        runs.setdefault("|".join(key.split("|")[:2]), []).append(key)
    for name, outputs in runs.items():
        counts = [key.removesuffix("out") + "noise_count" for key in outputs]
        known = name.split("|")[1] in SAMPLERS
        inputs = ["x_T", "c_img", "noise_tape", *counts]
        limit = Limit(SAMPLER.value, through_replay)
        yield Case(file, name, outputs, inputs, limit, _Trajectories(outputs) if known else None)


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
    """Return the array PARAM|TABLE|STEPS; the reference's spaced tables start with the cleanest timestep."""
    param, name, *steps = key.split("|")
    schedule = SCHEDULES[param]
    if name == "alphas_cumprod":
        return schedule.alphas_cumprod
    if name.startswith("edm_"):
        stops = edm_stops(Span(schedule, int(steps[0])))
        return stops.timesteps if name == "edm_timesteps" else stops.sigmas
    return np.asarray(SPACED_TABLES[name](spaced_steps(Span(schedule, int(steps[0])))))[::-1]


class _Trajectories:
    """Runs the sampling of each key PARAM|SAMPLER|steps=|cfg=|rescale=|churn=|out."""

    def __init__(self, outputs: Sequence[str]):
        self.outputs = outputs

    def __call__(self, golden: Arrays) -> Values:
        return {key: self.value(key, golden) for key in self.outputs}

    def value(self, key: str, golden: Arrays) -> np.ndarray:
        """Return our result (B, c, h, w), stacked with two replays of the published arithmetic if rounding matters."""
        ours = nchw(trajectory(key, golden))
        if Run.of(key).sampler not in STEPS:
            return ours
        # Stacked, because a case compares one array per key.
        return np.stack([ours, replayed(key, golden, np.float64), replayed(key, golden, np.float32)])


def through_replay(value: np.ndarray, golden: np.ndarray) -> float:
    """Return the larger of two errors: of ours against the exact result, and of the float32 replay against the golden.

    If both are small, ours and the golden differ only by the golden's rounding (see `replay`). The error of ours is
    absolute, but relative to the largest value if that exceeds 1,000. The error of the replay is always relative,
    because its rounding grows with the values. Above 1,000, float32 cannot be nearer to the exact result than the
    golden is, so the golden's own error is subtracted, at most the tolerance.

    Args:
        value: (3, ...): ours, the replay in float64, the replay in float32; or only ours, if rounding does not matter.
        golden: the reference's result.
    """
    if value.shape == golden.shape:
        return absolute_in_reach(value, golden)
    ours, exact, rounded = value
    error = absolute_in_reach(ours, exact)
    if np.abs(golden).max() > 1000:
        error -= min(relative(golden, exact), SAMPLER.value)
    return max(error, relative(rounded, golden))


class Run(NamedTuple):
    """The content of a key PARAM|SAMPLER|steps=|cfg=|rescale=|churn=|out."""

    param: str
    sampler: str
    steps: int
    cfg: float
    rescale: bool
    churn: float

    @classmethod
    def of(cls, key: str) -> "Run":
        """Read a key."""
        param, sampler, *rest = key.removesuffix("|out").split("|")
        steps, cfg, rescale, churn = (part.split("=")[1] for part in rest)
        return cls(param, sampler, int(steps), float(cfg), rescale == "1", float(churn))

    @property
    def span(self) -> Span:
        """The span to sample."""
        return Span(SCHEDULES[self.param], self.steps)


def trajectory(key: str, golden: Arrays) -> jax.Array:
    """Return the result (B, h, w, c) of one sampling.

    Args:
        key: PARAM|SAMPLER|steps=|cfg=|rescale=|churn=|out.
        golden: "x_T", "c_img", "noise_tape" and the key's "noise_count", as stored.
    """
    run = Run.of(key)
    settings = {"s_churn": run.churn, "s_tmax": MAX_CHURN} if run.churn else {}
    scales: Scales = {"cfg_scale": run.cfg, "rescale_cfg": run.rescale}
    steps = make_sampler(run.sampler, run.span, settings, **scales)
    image = nhwc(golden["c_img"])
    cond, uncond = ({"text": jnp.asarray(text)[:, None, None, None]} for text in TEXT)
    return sample(
        Denoiser(toy_model, SCHEDULES[run.param].parameterization),
        DenoiserInputs({}, {"image": image} | cond, uncond),
        nhwc(golden["x_T"]),
        steps,
        nhwc(_noise(golden, key, steps)),
    )


def _noise(golden: Arrays, key: str, steps: LinearStep) -> np.ndarray:
    """Return the reference's noise, each at the row that drew it; zeros for the other rows."""
    drawn = golden["noise_tape"][: int(golden[key.removesuffix("out") + "noise_count"])]
    rows = len(steps.variance)
    # Methods with churn draw at the start of each step, even if unused. The others draw only where they use it.
    # Two rows per step: only the first of them draws.
    each = 2 if rows > Run.of(key).steps else 1
    where = np.flatnonzero(steps.variance) if steps.churn is None else np.arange(0, rows, each)
    noise = np.zeros_like(golden["noise_tape"], shape=(rows, *drawn.shape[1:]))
    count = min(len(where), len(drawn))
    noise[where[:count]] = drawn[:count]
    return noise


def toy_model(params: Params, x: jax.Array, t: jax.Array, cond: dict[str, jax.Array]) -> jax.Array:
    """The function in place of the network; shapes as in `Denoiser`."""
    time = t.astype(jnp.float32)[:, None, None, None] / 1000
    seen = jnp.tanh(0.7 * x + 0.3 * cond["image"] - 0.2 * time) * (0.8 + 0.1 * time)
    return jnp.repeat(seen, len(cond["text"]) // len(x), axis=0) + 0.05 * cond["text"]


def replayed(key: str, golden: Arrays, dtype: type[np.floating]) -> np.ndarray:
    """Return the published arithmetic's result (B, c, h, w) in a precision; in float32 it rounds like the reference."""
    run, image = Run.of(key), golden["c_img"].astype(dtype)

    def model(x: np.ndarray, timestep: float, text: int) -> np.ndarray:
        t, tall = dtype(timestep), np.array(TEXT[text], dtype)[:, None, None, None]
        seen = dtype(0.7) * x + dtype(0.3) * image - dtype(0.2) * (t / dtype(1000))
        squashed = np.tanh(seen.astype(np.float64)).astype(dtype)  # rounded once
        return squashed * (dtype(0.8) + dtype(0.1) * t / dtype(1000)) + dtype(0.05) * tall

    def cfg_scale(timestep: float) -> float:
        return float(cfg_scales(run.cfg, np.array([timestep]), rescale=run.rescale)[0])

    replay = Replay(
        dtype,
        model,
        SCHEDULES[run.param].parameterization,
        None if run.cfg == 1 else cfg_scale,
        edm_stops(run.span),
        iter(golden["noise_tape"]),
        min(run.churn / run.steps, np.sqrt(2) - 1),
        MAX_CHURN,
    )
    return replay.run(run.sampler, golden["x_T"])
