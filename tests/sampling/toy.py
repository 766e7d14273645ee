"""Stand-ins for the network, and the reference's trajectories with the first of them."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from diffbir_jax.diffusion.schedule import make_schedule, signal_and_noise, training_target
from diffbir_jax.sampling.denoiser import Denoiser, DenoiserInputs

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "samplers.npz")
SCHEDULES = {
    "eps": make_schedule(),
    "v": make_schedule(zero_terminal_snr=True, parameterization="v"),
}


def nhwc(array: np.ndarray) -> jax.Array:
    return jnp.asarray(np.moveaxis(array, -3, -1))


def toy_model(params: None, x: jax.Array, t: jax.Array, cond: dict) -> jax.Array:
    """The function that stands for the network in the golden trajectories."""
    time = t.astype(jnp.float32)[:, None, None, None] / 1000
    seen = jnp.tanh(0.7 * x + 0.3 * cond["image"] - 0.2 * time) * (0.8 + 0.1 * time)
    return both_prompts(seen, cond["text"]) + 0.05 * cond["text"]


def both_prompts(seen: jax.Array, text: jax.Array) -> jax.Array:
    """What does not depend on the prompt (B, ...), for each of the prompts in `text` (B or 2 B, ...)."""
    return jnp.repeat(seen, len(text) // len(seen), axis=0)


def toy_inputs() -> DenoiserInputs:
    """The conditions of the golden trajectories."""
    cond, uncond = ({"text": jnp.array(text)[:, None, None, None]} for text in ([1.0, -1.0], [0.5, 0.25]))
    return DenoiserInputs(None, {"image": nhwc(GOLDEN["c_img"])} | cond, uncond)


def oracle(param: str) -> Denoiser:
    """A network that knows the clean image, its condition: its output is the exact target for any z_t."""

    def model(params: None, x: jax.Array, t: jax.Array, x0: jax.Array) -> jax.Array:
        signal, noise = signal_and_noise(SCHEDULES[param], t)
        return training_target(SCHEDULES[param], x0, t, (x - signal * x0) / noise)

    return Denoiser(model, SCHEDULES[param].parameterization)
