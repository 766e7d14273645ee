"""Variance-preserving diffusion: z_t = signal_t * x0 + noise_t * eps, with signal_t^2 + noise_t^2 = 1.

Tables are computed in float64 on the host and used as float32 on the device. Every function is pure and works
on NHWC arrays of shape (B, H, W, C) with integer timesteps of shape (B,).
"""

import functools
from dataclasses import dataclass
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

Parameterization = Literal["eps", "v"]


@dataclass(frozen=True, eq=False)
class Schedule:
    """Noise schedule of a diffusion model.

    Attributes:
        alphas_cumprod: (T,) float64, signal_t^2, falling from about 1 to 0 (exactly, with zero terminal SNR).
        parameterization: the network's prediction, 'eps' (the noise) or 'v' (signal * eps - noise * x0).
    """

    alphas_cumprod: np.ndarray
    parameterization: Parameterization

    @property
    def num_timesteps(self) -> int:
        """Number T of training timesteps."""
        return len(self.alphas_cumprod)


def make_schedule(
    *,
    zero_terminal_snr: bool = False,
    parameterization: Parameterization = "eps",
    num_timesteps: int = 1000,
    beta_start: float = 0.00085,
    beta_end: float = 0.012,
) -> Schedule:
    """Stable Diffusion's schedule: betas linear in the square root (Rombach et al. 2022).

    Equal arguments return the same object, so that a Schedule may be a static argument of `jax.jit`.

    Args:
        zero_terminal_snr: rescale so that the last timestep is pure noise (Lin et al. 2023, algorithm 1).
            Needs 'v': noise alone says nothing about x0.
        parameterization: 'eps' or 'v'.
        num_timesteps: number T of training timesteps, at least 2.
        beta_start: first beta.
        beta_end: last beta, before the rescaling.

    Raises:
        ValueError: unknown parameterization, 'eps' with zero terminal SNR, or fewer than 2 timesteps.
    """
    if parameterization not in get_args(Parameterization):
        raise ValueError(f"parameterization is {parameterization!r}; use one of {get_args(Parameterization)}")
    if zero_terminal_snr and parameterization == "eps":
        raise ValueError("zero_terminal_snr=True needs parameterization='v': pure noise and eps hide x0")
    if num_timesteps < 2:
        raise ValueError(f"num_timesteps is {num_timesteps}; a schedule needs at least 2")
    return _schedule(bool(zero_terminal_snr), parameterization, num_timesteps, beta_start, beta_end)


@functools.cache
def _schedule(
    zero_terminal_snr: bool,
    parameterization: Parameterization,
    num_timesteps: int,
    beta_start: float,
    beta_end: float,
) -> Schedule:
    """Return one object per schedule. Arguments are positional, because the cache distinguishes orders of keywords."""
    # float64: in float32 the product of 1,000 factors loses digits where the signal is small.
    betas = np.linspace(beta_start**0.5, beta_end**0.5, num_timesteps, dtype=np.float64) ** 2
    alphas_cumprod = np.cumprod(1 - betas)
    if zero_terminal_snr:
        signal = np.sqrt(alphas_cumprod)
        # Shift the last signal to 0 and scale, so that the first one stays (Lin et al. 2023, algorithm 1).
        alphas_cumprod = ((signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])) ** 2
    # The cached object is shared by all callers.
    alphas_cumprod.setflags(write=False)
    return Schedule(alphas_cumprod, parameterization)


def signal_and_noise(schedule: Schedule, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Coefficients of x0 and of the noise in z_t.

    Args:
        schedule: the noise schedule.
        t: (B,) integer timesteps in [0, T).

    Returns:
        (signal, noise), each (B, 1, 1, 1) float32 in [0, 1].
    """
    signal = jnp.asarray(np.sqrt(schedule.alphas_cumprod), jnp.float32)
    noise = jnp.asarray(np.sqrt(1 - schedule.alphas_cumprod), jnp.float32)
    return signal[t][:, None, None, None], noise[t][:, None, None, None]


def q_sample(schedule: Schedule, x0: jax.Array, t: jax.Array, noise: jax.Array) -> jax.Array:
    """Draws z_t ~ q(z_t | x0) with the given standard normal noise (Ho et al. 2020, equation 4).

    Args:
        schedule: the noise schedule.
        x0: (B, H, W, C) clean latents.
        t: (B,) integer timesteps.
        noise: standard normal, shape of x0.

    Returns:
        z_t, shape of x0.
    """
    signal, sigma = signal_and_noise(schedule, t)
    return signal * x0 + sigma * noise


def training_target(schedule: Schedule, x0: jax.Array, t: jax.Array, noise: jax.Array) -> jax.Array:
    """Return the target of the network at z_t: the noise, or v (Salimans & Ho 2022).

    Arguments as in `q_sample`; returns an array of x0's shape.
    """
    if schedule.parameterization == "eps":
        return noise
    signal, sigma = signal_and_noise(schedule, t)
    return signal * noise - sigma * x0


def predict_x0(
    parameterization: Parameterization, x: jax.Array, output: jax.Array, signal: jax.Array, noise: jax.Array
) -> jax.Array:
    """Clean latents implied by the network's output.

    Args:
        parameterization: the kind of `output`, 'eps' or 'v'.
        x: (B, H, W, C) noisy latents z_t.
        output: network output, shape of x.
        signal: coefficient of x0 in z_t, scalar or (B, 1, 1, 1); above 0 for 'eps'.
        noise: coefficient of the noise in z_t, same shape as `signal`.

    Returns:
        x0, shape of x.
    """
    if parameterization == "eps":
        # Solved from z_t = signal x0 + noise eps. Near pure noise the division amplifies errors.
        return (x - noise * output) / signal
    # With v = signal eps - noise x0, no division is needed, so v also works at zero signal.
    return signal * x - noise * output
