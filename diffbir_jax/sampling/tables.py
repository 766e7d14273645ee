"""A sampler as a table of scalars, computed on the host in float64.

Each row is one call of the network, after which the next latents are a linear combination of known values. Samplers
differ only in the coefficients, and `loop.sample` scans the rows of any of them. If a method calls the network twice
per step, a step has two rows; the second row looks back at the latents of the first.
"""

from typing import NamedTuple, TypedDict, Unpack

import jax
import numpy as np

# Unit of the guidance scale, the same as in the reference implementation.
GUIDANCE_UNIT = 3000.0

# NumPy arrays in a table, JAX arrays inside the scan.
Values = np.ndarray | jax.Array


class Level(NamedTuple):
    """A point on the noise schedule, as the denoiser needs it. Scalars, or (N,) in a table.

    Attributes:
        timestep: float32, the network's timestep, fractions included.
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


class Churn(NamedTuple):
    """Noise that is added before the network is called (Karras et al. 2022, algorithm 2).

    Attributes:
        coef_x: float32, coefficient of z_t.
        variance: float32, variance of the noise; 0 for none.
    """

    coef_x: Values
    variance: Values


class LinearStep(NamedTuple):
    """One call of the network and the update after it; scalars, or (N,) of each in a table.

    z_next = coef_x0 * x0 + coef_x * z_t + sqrt(variance) * noise; in spaced DDPM this is a draw from q(z_prev | z_t,
    x0). Methods that look back add earlier_x0 * (earlier x0 - x0) and earlier_x * earlier z_t, for all earlier rows
    they use.

    Attributes:
        level: the point at which the network is called.
        coef_x0: float32, coefficient of the x0 predicted here; of all predictions if they are equal.
        coef_x: float32, coefficient of z_t.
        variance: float32, variance of the fresh noise; 0 if the step leads to x0.
        earlier_x0: float32 each, for the predictions of earlier rows, the latest first.
        earlier_x: float32 each, for the latents of earlier rows, the latest first.
        churn: noise added to z_t first; None in methods without churn.
    """

    level: Level
    coef_x0: Values
    coef_x: Values
    variance: Values
    earlier_x0: tuple[Values, ...] = ()
    earlier_x: tuple[Values, ...] = ()
    churn: Churn | None = None


class Scales(TypedDict, total=False):
    """Arguments that all samplers' tables share.

    Attributes:
        cfg_scale: scale of classifier-free guidance; 1, the default, is none.
        rescale_cfg: see `cfg_scales`. Default: no.
        guidance_scale: the paper's s: guidance moves the end of a step by 3000 s times the gradient, see `make_level`.
            0, the default, turns guidance off.
        guidance_window: (low, high): guide only where low <= timestep < high. Default: everywhere.
    """

    cfg_scale: float
    rescale_cfg: bool
    guidance_scale: float
    guidance_window: tuple[float, float] | None


def make_level(
    timesteps: np.ndarray, signal: np.ndarray, reach: np.ndarray, **scales: Unpack[Scales]
) -> Level:
    """Table of the points at which a sampler calls the network.

    Guidance subtracts a step times the gradient from the predicted x0. The sampler turns x0 into z_next with the
    coefficient `reach`. The step is 3000 s / reach, so z_next moves by 3000 s for every sampler and number of steps. In
    spaced DDPM `reach` is the posterior mean's coefficient of x0, as in the reference. For methods that look back it is
    the derivative of z_next with respect to a shift of all predictions, `LinearStep.coef_x0`.

    An example with s = 0.001, so that every z_next moves by 3 times the gradient. The first row carries half of x0 into
    z_next, so x0 must move twice as far. The third row is the first call of a step of two calls: it is not guided. The
    last row ends at x0 itself.

    >>> reach = np.array([0.5, 0.25, np.inf, 1.0])
    >>> make_level(np.array([750, 500, 250, 0]), np.full(4, 0.6), reach, guidance_scale=0.001).guidance.tolist()
    [6.0, 12.0, 0.0, 3.0]

    Args:
        timesteps: (N,) the network's timesteps.
        signal: (N,) coefficient of x0 in z_t; the noise's is sqrt(1 - signal^2).
        reach: (N,) coefficient of x0 in the mean of z_next, above 0; infinite for no guidance.
        scales: see `Scales`.

    Returns:
        Level of (N,) arrays.
    """
    low, high = scales.get("guidance_window") or (0, np.inf)
    guided = (timesteps >= low) & (timesteps < high)
    rescale = scales.get("rescale_cfg", False)
    return Level(
        timestep=timesteps.astype(np.float32),
        signal=signal.astype(np.float32),
        noise=np.sqrt(1 - signal**2).astype(np.float32),
        cfg_scale=cfg_scales(scales.get("cfg_scale", 1.0), timesteps, rescale=rescale),
        guidance=(guided * GUIDANCE_UNIT * scales.get("guidance_scale", 0.0) / reach).astype(np.float32),
    )


def cfg_scales(scale: float, timesteps: np.ndarray, *, rescale: bool = False) -> np.ndarray:
    """Scale of classifier-free guidance at each timestep.

    Args:
        scale: the scale; 1 means none.
        timesteps: (N,) numbers in [0, 1000).
        rescale: let the scale rise from 1 at the noisiest timestep to 1 + scale at the cleanest, along
            1 + scale (1 - cos(pi (1 - t/1000)^5)) / 2. Scales of 1 and below stay as they are.

    Returns:
        (N,) float32.
    """
    if not rescale or scale <= 1:
        return np.full(len(timesteps), scale, np.float32)
    progress = (1 - np.asarray(timesteps, np.float64) / 1000) ** 5
    return (1 + scale * (1 - np.cos(np.pi * progress)) / 2).astype(np.float32)


class SigmaRows(NamedTuple):
    """A table in x = x0 + sigma * noise, in which most methods are published; (N,) float64 each.

    As in `LinearStep`, but x0 needs no coefficient: if all images shift by one value, x and the predictions shift by
    it, too. So coef_x0 is 1 - coef_x - (the sum of earlier_x).

    Attributes:
        here: sigmas of the calls of the network.
        after: sigmas of x_next.
        coef_x, earlier_x0, earlier_x: see `LinearStep`.
        deviation: standard deviation of the fresh noise.
        before: sigmas before the churn that leads to `here`; None in methods without churn.
    """

    here: np.ndarray
    after: np.ndarray
    coef_x: np.ndarray
    deviation: np.ndarray
    earlier_x0: tuple[np.ndarray, ...] = ()
    earlier_x: tuple[np.ndarray, ...] = ()
    before: np.ndarray | None = None


def signal_of(sigmas: np.ndarray) -> np.ndarray:
    """Coefficient of x0 in z_t = x / sqrt(1 + sigma^2)."""
    return 1 / np.sqrt(1 + sigmas**2)


def sigma_table(
    rows: SigmaRows,
    timesteps: np.ndarray,
    *,
    s_noise: float = 1.0,
    reach: np.ndarray | None = None,
    **scales: Unpack[Scales],
) -> LinearStep:
    """The table in z = x / sqrt(1 + sigma^2). These numbers stay near 1, and the network takes them unchanged.

    Args:
        rows: the same table in x.
        timesteps: (N,) of the rows.
        s_noise: factor on all noise except the start's.
        reach: see `make_level`; by default coef_x0.
        scales: see `Scales`.
    """
    here, after = signal_of(rows.here), signal_of(rows.after)
    # Coefficients of x and of all predictions add up to 1 in x, see `SigmaRows`.
    coef_x0 = after * (1 - rows.coef_x - sum(rows.earlier_x))
    # Rows before the first do not exist, so their coefficients are 0.
    earlier_x = (after * b / np.roll(here, k) for k, b in enumerate(rows.earlier_x, start=1))
    return LinearStep(
        make_level(timesteps, here, coef_x0 if reach is None else reach, **scales),
        *_float32(coef_x0, after * rows.coef_x / here, (s_noise * after * rows.deviation) ** 2),
        earlier_x0=_float32(*(after * a for a in rows.earlier_x0)),
        earlier_x=_float32(*earlier_x),
        churn=None if rows.before is None else _churn(rows.before, rows.here, s_noise),
    )


def _churn(before: np.ndarray, here: np.ndarray, s_noise: float) -> Churn:
    signal = signal_of(here)
    return Churn(*_float32(signal / signal_of(before), (s_noise * signal) ** 2 * (here**2 - before**2)))


def _float32(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    # float64 up to here: differences of nearly equal sigmas lose digits in float32.
    return tuple(array.astype(np.float32) for array in arrays)
