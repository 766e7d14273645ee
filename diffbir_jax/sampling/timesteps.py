"""Which timesteps a sampler visits and the scalars it needs there, computed on the host in float64.

All tables are in sampling order: from the noisiest timestep to the cleanest.
"""

from typing import NamedTuple, TypedDict, Unpack

import jax
import numpy as np

from diffbir_jax.diffusion.schedule import Schedule

# Unit of the guidance scale, as in the reference implementation.
GUIDANCE_UNIT = 3000.0


# NumPy in a table, JAX inside the scan.
Values = np.ndarray | jax.Array


class Level(NamedTuple):
    """A point on the noise schedule: what the denoiser needs to know there. Scalars, or (N,) in a table.

    Attributes:
        timestep: int32, the network's timestep.
        signal: float32, coefficient of x0 in z_t.
        noise: float32, coefficient of the noise in z_t.
        cfg_scale: float32, scale of classifier-free guidance; 1 is the conditional prediction.
        guidance: float32, step length of restoration guidance; 0 turns it off.
    """

    timestep: Values
    signal: Values
    noise: Values
    cfg_scale: Values
    guidance: Values


class LinearStep(NamedTuple):
    """One step of a sampler whose next latents are a linear combination; scalars, or (N,) of each in a table.

    z_prev = coef_x0 * x0 + coef_x * z_t + (earlier * the x0 of earlier steps) + sqrt(variance) * noise. In spaced DDPM
    that is a draw from q(z_prev | z_t, x0).

    Attributes:
        level: where the step starts.
        coef_x0: float32, coefficient of the x0 predicted here.
        coef_x: float32, coefficient of z_t.
        variance: float32, variance of the fresh noise; 0 where a step leads to x0.
        earlier: float32 each, coefficients of earlier predictions, the latest first, in methods that look back.
    """

    level: Level
    coef_x0: Values
    coef_x: Values
    variance: Values
    earlier: tuple[Values, ...] = ()


class Scales(TypedDict, total=False):
    """What all samplers' tables take alike.

    Attributes:
        cfg_scale: scale of classifier-free guidance; 1, the default, is none.
        rescale_cfg: see `cfg_scales`. Default: no.
        guidance_scale: the paper's s: a step moves the mean of z_prev by 3000 s times the gradient. 0, the default,
            turns guidance off.
        guidance_window: (low, high): guide where low <= timestep < high only. Default: everywhere.
    """

    cfg_scale: float
    rescale_cfg: bool
    guidance_scale: float
    guidance_window: tuple[int, int] | None


def make_level(
    timesteps: np.ndarray, signal: np.ndarray, reach: np.ndarray, **scales: Unpack[Scales]
) -> Level:
    """Table of the points that a sampler visits.

    Guidance subtracts a step times the gradient from the predicted x0, and the sampler turns x0 into z_prev with the
    coefficient `reach`; the step is 3000 s / reach, so that z_prev moves by 3000 s whatever the sampler and its number
    of steps. In spaced DDPM `reach` is the posterior mean's coefficient of x0, as in the reference. Methods that look
    back spread it over several predictions: it is their sum, what z_prev answers to a shift of all of them.

    Args:
        timesteps: (N,) integers, the network's timesteps.
        signal: (N,) coefficient of x0 in z_t; the noise's is sqrt(1 - signal^2).
        reach: (N,) coefficient of x0 in the mean of z_prev, above 0.
        scales: see `Scales`.

    Returns:
        Level of (N,) arrays.
    """
    low, high = scales.get("guidance_window") or (0, np.inf)
    guided = (timesteps >= low) & (timesteps < high)
    rescale = scales.get("rescale_cfg", False)
    return Level(
        timestep=timesteps.astype(np.int32),
        signal=signal.astype(np.float32),
        noise=np.sqrt(1 - signal**2).astype(np.float32),
        cfg_scale=cfg_scales(scales.get("cfg_scale", 1.0), timesteps, rescale=rescale),
        guidance=(guided * GUIDANCE_UNIT * scales.get("guidance_scale", 0.0) / reach).astype(np.float32),
    )


def space_timesteps(num_timesteps: int, num_steps: int) -> np.ndarray:
    """Evenly spaced timesteps that include the first and the last (Nichol & Dhariwal 2021).

    A single step visits the last timestep, where sampling starts.

    Args:
        num_timesteps: timesteps to choose from, 0 to num_timesteps - 1.
        num_steps: how many to choose.

    Returns:
        (num_steps,) int32, falling from num_timesteps - 1 to 0.

    Raises:
        ValueError: num_steps is not in [1, num_timesteps].
    """
    if not 1 <= num_steps <= num_timesteps:
        raise ValueError(f"{num_steps} sampling steps given; allowed are 1 to {num_timesteps}")
    if num_steps == 1:
        return np.array([num_timesteps - 1], np.int32)
    # Adding the stride up, rather than multiplying, keeps the rounding of halves that trained models met.
    stride = (num_timesteps - 1) / (num_steps - 1)
    return np.rint(np.cumsum([0.0] + [stride] * (num_steps - 1))).astype(np.int32)[::-1]


def cfg_scales(scale: float, timesteps: np.ndarray, *, rescale: bool = False) -> np.ndarray:
    """Scale of classifier-free guidance at each timestep.

    Args:
        scale: the scale; 1 means none.
        timesteps: (N,) integers in [0, 1000).
        rescale: let the scale rise from 1 at the noisiest timestep to 1 + scale at the cleanest, along
            1 + scale (1 - cos(pi (1 - t/1000)^5)) / 2. Scales of 1 and below stay as they are.

    Returns:
        (N,) float32.
    """
    if not rescale or scale <= 1:
        return np.full(len(timesteps), scale, np.float32)
    progress = (1 - np.asarray(timesteps, np.float64) / 1000) ** 5
    return (1 + scale * (1 - np.cos(np.pi * progress)) / 2).astype(np.float32)


def spaced_steps(
    schedule: Schedule, num_steps: int, *, start_timestep: int | None = None, **scales: Unpack[Scales]
) -> LinearStep:
    """Table of spaced DDPM (Ho et al. 2020, equation 7, on the timesteps of Nichol & Dhariwal 2021).

    Args:
        schedule: the noise schedule the network was trained with.
        num_steps: sampling steps, 1 to the number of training timesteps.
        start_timestep: sample only the first `start_timestep` training timesteps, for a start from a
            latent that was noised to timestep start_timestep - 1 (`level.timestep[0]`). Default: all,
            from pure noise.
        scales: see `Scales`.

    Returns:
        LinearStep of (num_steps,) arrays.

    Raises:
        ValueError: more steps than timesteps, or start_timestep outside of the schedule.
    """
    timesteps = space_timesteps(covered_timesteps(schedule, num_steps, start_timestep), num_steps)
    alphas_cumprod = schedule.alphas_cumprod[timesteps]
    previous = np.append(alphas_cumprod[1:], 1.0)
    alphas = alphas_cumprod / previous
    coef_x0 = (1 - alphas) * np.sqrt(previous) / (1 - alphas_cumprod)
    return LinearStep(
        level=make_level(timesteps, np.sqrt(alphas_cumprod), coef_x0, **scales),
        coef_x0=coef_x0.astype(np.float32),
        coef_x=((1 - previous) * np.sqrt(alphas) / (1 - alphas_cumprod)).astype(np.float32),
        variance=((1 - alphas) * (1 - previous) / (1 - alphas_cumprod)).astype(np.float32),
    )


def covered_timesteps(schedule: Schedule, num_steps: int, start_timestep: int | None) -> int:
    """How many of the schedule's timesteps sampling covers, the cleanest ones; by default all.

    Raises:
        ValueError: start_timestep is outside of the schedule, or there are more steps than that.
    """
    start = schedule.num_timesteps if start_timestep is None else start_timestep
    if not 1 <= start <= schedule.num_timesteps:
        raise ValueError(f"start_timestep is {start}; allowed are 1 to {schedule.num_timesteps}")
    if not 1 <= num_steps <= start:
        raise ValueError(f"{num_steps} sampling steps given; allowed are 1 to {start}")
    return start


def edm_schedule(
    schedule: Schedule, num_steps: int, start_timestep: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Timesteps and noise levels of the samplers that work on x = x0 + sigma * noise (Karras et al.
    2022).

    From pure noise the first sigma is set to 1e4, about infinity, whatever the schedule says there.

    Args:
        schedule: the noise schedule.
        num_steps: sampling steps, 1 to the number of training timesteps.
        start_timestep: as in `spaced_steps`.

    Returns:
        (timesteps, sigmas): (num_steps + 1,) int32 and float64, both falling, the last sigma 0.

    Raises:
        ValueError: num_steps or start_timestep is out of range.
    """
    start = covered_timesteps(schedule, num_steps, start_timestep)
    timesteps = np.linspace(start - 1, 0, num_steps, endpoint=False).astype(np.int32)
    alphas_cumprod = schedule.alphas_cumprod[timesteps]
    if start == schedule.num_timesteps:
        alphas_cumprod[0] = 1e-8
    sigmas = np.sqrt((1 - alphas_cumprod) / alphas_cumprod)
    return np.append(timesteps, np.int32(0)), np.append(sigmas, 0.0)
