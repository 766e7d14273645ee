"""Samplers on sigma exactly as published, operation by operation, in a chosen precision.

From pure noise, x starts at 1e4, where float32 has steps of 1e-3. Methods that form slopes (x - x0) / sigma turn these
steps into errors of the result. The reference computes in this way, so its values contain this rounding.
`diffbir_jax.sampling` works in z = x / sqrt(1 + sigma^2) and avoids it. The functions here give the reference's values
in float32, and the exact result in float64. They only support the closed-form model of the golden trajectories.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from diffbir_jax.sampling.edm import LMS_LOOKBACK, multistep_weights
from diffbir_jax.sampling.timesteps import Stops

Array = np.ndarray
# Half-way in log sigma.
_HALF = 0.5


@dataclass(frozen=True)
class Replay:
    """One golden trajectory.

    Attributes:
        dtype: dtype of every operation, `np.float32` or `np.float64`.
        model: (x in z's scale, timestep, index of the prompt (0 or 1)) -> output, in the dtype.
        parameterization: meaning of the output, "eps" or "v".
        cfg_scale: timestep -> scale of classifier-free guidance; None turns it off.
        stops: the sampler's stops.
        noise: the reference's noise, in order.
        churn: s_churn / steps, at most sqrt(2) - 1.
        max_churn: largest sigma with churn.
    """

    dtype: type[np.floating]
    model: Callable[[Array, float, int], Array]
    parameterization: str
    cfg_scale: Callable[[float], float] | None
    stops: Stops
    noise: Iterator[Array]
    churn: float = 0.0
    max_churn: float = 300.0

    def run(self, name: str, start: Array) -> Array:
        """Return the result of the sampler `name` (a key of `STEPS`) from standard normal noise (B, c, h, w)."""
        sigmas = self.stops.sigmas.astype(self.dtype)
        # x = z sqrt(1 + sigma^2), the scale of the published samplers.
        x = start.astype(self.dtype) * np.sqrt(1 + sigmas[0] ** 2)
        slopes: list[Array] = []
        for i in range(len(sigmas) - 1):
            x = STEPS[name](self, x, sigmas[i], sigmas[i + 1], slopes)
        return x

    def denoise(self, x: Array, sigma: Array) -> Array:
        """Return the predicted x0."""
        timestep = float(self.stops.timestep_of(np.array([float(sigma)]))[0])
        scale = np.sqrt(sigma**2 + 1)
        # Preconditioning as in the reference: x0 = skip x + out output.
        skip, out = (1, -sigma) if self.parameterization == "eps" else (1 / (sigma**2 + 1), -sigma / scale)
        first, second = (
            self.model(x * (1 / scale), timestep, text) * self.dtype(out) + x * self.dtype(skip)
            for text in (0, 1)
        )
        if self.cfg_scale is None:
            return first
        return second + self.dtype(self.cfg_scale(timestep)) * (first - second)

    def slope(self, x: Array, sigma: Array) -> Array:
        """Return dx/dsigma."""
        return (x - self.denoise(x, sigma)) / sigma

    def draw(self) -> Array:
        """Return the next noise of the tape."""
        return next(self.noise).astype(self.dtype)

    def churned(self, x: Array, sigma: Array) -> tuple[Array, Array]:
        """Return latents and sigma after the noise of Karras et al. 2022, algorithm 2. It always draws noise."""
        noise, gamma = self.draw(), self.churn if sigma <= self.max_churn else 0.0
        raised = sigma * self.dtype(1 + gamma)
        return (x + noise * np.sqrt(raised**2 - sigma**2) if gamma else x), raised

    def middle(self, sigma: Array, after: Array) -> Array:
        """Return the sigma half-way in log sigma."""
        begin, end = self.exactly(np.log, sigma), self.exactly(np.log, after)
        return self.exactly(np.exp, end - (end - begin) * self.dtype(_HALF))

    def exactly(self, function: Callable[[Array], Array], x: Array) -> Array:
        """Return the function's value, computed in float64 and rounded once; libraries differ in its last bit."""
        return np.asarray(function(np.asarray(x, np.float64))).astype(self.dtype)[()]


Step = Callable[[Replay, Array, Array, Array, list[Array]], Array]


def euler(r: Replay, x: Array, sigma: Array, after: Array, _: list[Array]) -> Array:
    """Euler's method with churn."""
    x, sigma = r.churned(x, sigma)
    return x + r.slope(x, sigma) * (after - sigma)


def heun(r: Replay, x: Array, sigma: Array, after: Array, _: list[Array]) -> Array:
    """Heun's method with churn."""
    x, sigma = r.churned(x, sigma)
    slope, length = r.slope(x, sigma), after - sigma
    # At sigma 0 there is no slope, so the last step is Euler's.
    if after == 0:
        return x + slope * length
    return x + (slope + r.slope(x + slope * length, after)) / 2 * length


def dpm_2(r: Replay, x: Array, sigma: Array, after: Array, _: list[Array]) -> Array:
    """The midpoint method with churn."""
    x, sigma = r.churned(x, sigma)
    return _midpoint(r, x, sigma, after)


def dpm_2_ancestral(r: Replay, x: Array, sigma: Array, after: Array, _: list[Array]) -> Array:
    """The midpoint method with ancestral noise."""
    down, up = _ancestral(sigma, after)
    x = _midpoint(r, x, sigma, down)
    return x if after == 0 else x + r.draw() * up


def lms(r: Replay, x: Array, sigma: Array, after: Array, slopes: list[Array]) -> Array:
    """The linear multistep method of order 4."""
    slopes.insert(0, r.slope(x, sigma))
    i = len(slopes) - 1
    weights = multistep_weights(r.stops.sigmas, i, 1 + LMS_LOOKBACK)
    return x + sum(r.dtype(weight) * slope for weight, slope in zip(weights, slopes))


def dpmpp_2s_ancestral(r: Replay, x: Array, sigma: Array, after: Array, _: list[Array]) -> Array:
    """DPM-Solver++(2S) with ancestral noise."""
    down, up = _ancestral(sigma, after)
    if down == 0:
        return x + r.slope(x, sigma) * (down - sigma)
    here, there = -r.exactly(np.log, sigma), -r.exactly(np.log, down)
    step = there - here
    middle = here + r.dtype(_HALF) * step
    reach, whole = (-r.exactly(np.expm1, -step * r.dtype(share)) for share in (_HALF, 1.0))
    sigma_of = {t: r.exactly(np.exp, -t) for t in (here, middle, there)}
    ahead = (sigma_of[middle] / sigma_of[here]) * x + reach * r.denoise(x, sigma)
    x = (sigma_of[there] / sigma_of[here]) * x + whole * r.denoise(ahead, sigma_of[middle])
    return x + r.draw() * up


def _midpoint(r: Replay, x: Array, sigma: Array, down: Array) -> Array:
    slope = r.slope(x, sigma)
    if down == 0:
        return x + slope * (down - sigma)
    middle = r.middle(sigma, down)
    return x + r.slope(x + slope * (middle - sigma), middle) * (down - sigma)


def _ancestral(sigma: Array, after: Array) -> tuple[Array, Array]:
    up = min(after, np.sqrt(after**2 * (sigma**2 - after**2) / sigma**2))
    return np.sqrt(after**2 - up**2), up


STEPS: dict[str, Step] = {
    "edm_euler": euler,
    "edm_heun": heun,
    "edm_dpm_2": dpm_2,
    "edm_dpm_2_a": dpm_2_ancestral,
    "edm_lms": lms,
    "edm_dpm++_2s_a": dpmpp_2s_ancestral,
}
