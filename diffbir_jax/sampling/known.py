"""Restoration of a known degradation without training: corrections of x0 towards the measured image."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffbir_jax.files.trees import Tree
from diffbir_jax.imaging.tiling import Tiles, blend
from diffbir_jax.sampling.operators import Measured, analyse, project
from diffbir_jax.sampling.tables import Level

# The trial step of `Descent`, its root mean square in units of latents.
TRIAL = 0.05


class Places(NamedTuple):
    """Positions of the tiles in which the autoencoder sees canvases, on latents and on images."""

    latents: Tiles
    pixels: Tiles


class KnownInputs(NamedTuple):
    """The inputs of a correction during sampling. They are values, so new ones do not recompile.

    Attributes:
        params: parameters of the autoencoder.
        measured: y of each image, on its canvas; an axis B leads.
        scale: float32 scalar, factor on the gradient step.
        repeats: int32 scalar, steps of `Descent` per prediction.
        places: tiles; None: canvases are seen whole.
    """

    params: Tree
    measured: Measured
    scale: Array
    repeats: Array
    places: Places | None = None


@dataclass(frozen=True)
class Known(ABC):
    """A correction of the predicted clean latent; no parameters, equal by value.

    Attributes:
        encode: (params, images (B, H, W, 3) in [-1, 1]) -> latents as the sampler sees them.
        decode: (params, latents) -> images.
        factor: pixels per latent pixel.
        tile: height and width of a tile in latent pixels, used with `KnownInputs.places`.
        batch: tiles that the autoencoder sees at once.
    """

    encode: Callable[[Tree, Array], Array]
    decode: Callable[[Tree, Array], Array]
    factor: int
    tile: tuple[int, int] = (0, 0)
    batch: int = 1

    @abstractmethod
    def __call__(self, inputs: KnownInputs, x0: Array, level: Level) -> Array:
        """Return x0 (B, h, w, c), moved towards latents whose images y could come from."""

    def images(self, inputs: KnownInputs, x0: Array) -> Array:
        """The images of latents, decoded in tiles if there are `places`."""
        if inputs.places is None:
            return self.decode(inputs.params, x0)
        latents, pixels = inputs.places
        tiles = pixels._replace(start=latents.start)
        return blend(lambda z, _: self.decode(inputs.params, z), x0, tiles, self.tile, self.batch)

    def latents(self, inputs: KnownInputs, images: Array) -> Array:
        """The latents of images, likewise."""
        if inputs.places is None:
            return self.encode(inputs.params, images)
        latents, pixels = inputs.places
        tiles, size = (
            latents._replace(start=pixels.start),
            (self.tile[0] * self.factor, self.tile[1] * self.factor),
        )
        return blend(lambda x, _: self.encode(inputs.params, x), images, tiles, size, self.batch)


@dataclass(frozen=True)
class Projection(Known):
    """x0' = E(A+ y + (I - A+ A) D(x0)), DDNM (Wang et al. 2022) through an autoencoder; with noise, `weights`."""

    def __call__(self, inputs: KnownInputs, x0: Array, level: Level) -> Array:
        """See `Known`."""
        sigma = jnp.asarray(level.noise) / jnp.maximum(jnp.asarray(level.signal), 1e-6)
        images = self.images(inputs, x0)
        with jax.default_matmul_precision("highest"):
            weight = weights(inputs.measured, sigma)
            projected = jax.vmap(project)(inputs.measured, images, weight)
        return self.latents(inputs, projected).astype(x0.dtype)


class _Descent(NamedTuple):
    """Where the descent is: latents, the last direction and the gradient there; each (B, h, w, c)."""

    z: Array
    direction: Array
    gradient: Array


@dataclass(frozen=True)
class Descent(Known):
    """Conjugate gradient steps on |A(D(x0)) - y|^2 (gradients as GDP, Fei et al. 2023, and DPS, Chung et al. 2023).

    Conjugate directions (Polak and Ribiere 1969; for diffusion DDS, Chung et al. 2024): blur and decoder together are
    ill-conditioned, and plain gradients zigzag. A step has the length that is best along its line if the decoder is
    linear, times `KnownInputs.scale`. So no scale must be found per operator. Where y is met as well as its noise
    allows, nothing moves.
    """

    def __call__(self, inputs: KnownInputs, x0: Array, level: Level) -> Array:
        """See `Known`."""

        def residuals(z: Array) -> Array:
            with jax.default_matmul_precision("highest"):
                return _residuals(inputs.measured, self.images(inputs, z))

        def step(_: Array, before: _Descent) -> _Descent:
            """One conjugate step."""
            found, pull = jax.vjp(residuals, before.z)
            (gradient,) = pull(found)
            direction = _conjugate(before, gradient)
            # A small step tells how the difference changes: layers with gradients of their own know no forward mode.
            trial = TRIAL * jnp.sqrt(x0[0].size / jnp.maximum(_dots(direction, direction), 1e-20))
            changes = residuals(before.z + _wide(trial) * direction) - found
            length = -trial * _dots(found, changes) / jnp.maximum(_dots(changes, changes), 1e-20)
            length = jnp.where(_dots(found, found) > _noise(inputs.measured), inputs.scale * length, 0.0)
            return _Descent(before.z + _wide(length) * direction, direction, gradient)

        start = _Descent(x0, jnp.zeros_like(x0), jnp.zeros_like(x0))
        return jax.lax.fori_loop(0, inputs.repeats, step, start).z


def _conjugate(before: _Descent, gradient: Array) -> Array:
    """The next direction; against the gradient itself at the start, and if the other one leads upwards."""
    size = _dots(before.gradient, before.gradient)
    share = jnp.maximum(_dots(gradient, gradient - before.gradient), 0.0) / jnp.maximum(size, 1e-20)
    direction = _wide(jnp.where(size > 0, share, 0.0)) * before.direction - gradient
    return jnp.where(_wide(_dots(direction, gradient)) < 0, direction, -gradient)


def weights(measured: Measured, sigma: Array) -> Array:
    """How far each coefficient is taken from y, (B, K, L, 1): DDRM's weights (Kawar et al. 2022, equation 8).

    1 where the noise of y, divided by the singular value, is below the noise level sigma; else their ratio. Without
    noise in y all are 1.
    """
    deviation = jnp.reshape(measured.deviation, (-1, 1, 1, 1))
    reach = sigma * measured.values
    share = jnp.where(reach < deviation, reach / jnp.maximum(deviation, 1e-12), 1.0)
    return measured.known * share


def _residuals(measured: Measured, images: Array) -> Array:
    """A(x) - y in the left basis of A, whose squares add up to the same."""
    difference = jax.vmap(analyse)(measured.basis, images) - measured.data
    return measured.known * measured.values * difference


def _noise(measured: Measured) -> Array:
    """The squares that the noise in y leaves, (B,)."""
    count = jnp.sum(measured.known, axis=(1, 2, 3)) * measured.data.shape[-1]
    return count * jnp.square(measured.deviation)


def _dots(a: Array, b: Array) -> Array:
    """The products of images, (B,)."""
    return jnp.sum(a * b, axis=(1, 2, 3))


def _wide(values: Array) -> Array:
    """A number per image, for its pixels: (B, 1, 1, 1)."""
    return values[:, None, None, None]
