"""The one loop that drives every sampler."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import Array

from diffbir_jax.sampling.denoiser import Denoiser, DenoiserInputs
from diffbir_jax.sampling.tables import Level, LinearStep

# z_t, then the latents and the predictions of earlier rows, the latest first; each (B, h, w, c) float32.
Carry = tuple[Array, tuple[Array, ...], tuple[Array, ...]]


def image_keys(seed: int, indices: Sequence[int], variant: int = 0) -> Array:
    """A random key per image, from its index and not from its place in a batch.

    Args:
        seed: seed of the whole run.
        indices: index of each image of the batch within the run, each at least 0.
        variant: number of the result among several of the same images, at least 0. The first is the one of a run with
            a single result.

    Returns:
        (B,) typed keys. An image draws the same noise in any batch.
    """
    key = jax.random.key(seed)
    # Variant 0 keeps the key unchanged, so it equals a run with a single result.
    key = jax.random.fold_in(key, variant) if variant else key
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.asarray(indices, jnp.uint32))


@functools.partial(jax.jit, static_argnames="shape")
def draw_noise(keys: Array, draw: int | Array, shape: tuple[int, ...]) -> Array:
    """Standard normal noise, float32.

    Args:
        keys: (B,) typed keys, one per image.
        draw: number of the draw of these keys; `sample` uses 1 + the row's number, 0 is free for the start.
        shape: (B, h, w, c).
    """
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, draw), shape[1:]))(keys)


@functools.partial(jax.jit, static_argnames="denoiser")
def sample(denoiser: Denoiser, inputs: DenoiserInputs, x: Array, steps: LinearStep, noise: Array) -> Array:
    """Run a sampler from noisy latents to clean ones, as one `lax.scan`.

    It is compiled once per denoiser, set of shapes, number of rows and number of earlier rows that a method uses.
    Seeds, scales, prompts, timesteps and parameters are values, and so is the choice among samplers that look back
    equally far. Keep the denoiser's callables: new function objects compile again.

    Args:
        denoiser: network and guidance, as callables.
        inputs: their inputs.
        x: (B, h, w, c) float32, z_t at the first of the rows: `draw_noise(keys, 0, shape)` for a start from pure noise.
        steps: the sampler's table, of (N,) arrays in sampling order.
        noise: (B,) keys (`image_keys`), or the noise itself: (N, B, h, w, c), one entry per row.

    Returns:
        x0, float32 (B, h, w, c).

    Raises:
        ValueError: noise for another number of rows.
    """
    count = len(steps.variance)
    from_keys = jnp.issubdtype(noise.dtype, jax.dtypes.prng_key)
    if not from_keys and len(noise) != count:
        raise ValueError(
            f"noise for {len(noise)} calls of the network given; the sampler makes {count}: give it one entry per call"
        )
    denoise = functools.partial(denoiser, inputs)

    def body(carry: Carry, scanned: tuple[Array, LinearStep]) -> tuple[Carry, None]:
        index, step = scanned
        # Draw 0 belongs to the start of sampling.
        draw = draw_noise(noise, index + 1, x.shape) if from_keys else noise[index]
        return linear_step(denoise, carry, step, draw), None

    nothing = jnp.zeros_like(x)
    # Rows that look back find zeros at first; their coefficients are 0 there, too.
    start = (x, (nothing,) * len(steps.earlier_x), (nothing,) * len(steps.earlier_x0))
    (x0, *_), _ = jax.lax.scan(body, start, (jnp.arange(count), steps))
    return x0


def linear_step(
    denoise: Callable[[Array, Level], tuple[Array, Array]], carry: Carry, step: LinearStep, noise: Array
) -> Carry:
    """One row of a table; `LinearStep` has the equation.

    Args:
        denoise: (z_t, level) -> (x0, x0 moved by guidance). The row remembers x0 without guidance: guidance moves the
            next latents once, and no later row undoes a part of it.
        carry: known latents and predictions.
        step: scalars of this row.
        noise: standard normal, shape of z_t.

    Returns:
        as many latents and predictions as before, without the oldest.
    """
    x, earlier_x, earlier_x0 = carry
    if step.churn is not None:
        x = x * step.churn.coef_x + noise * jnp.sqrt(step.churn.variance)
    x0, guided = denoise(x, step.level)
    out = guided * step.coef_x0 + x * step.coef_x + noise * jnp.sqrt(step.variance)
    for coefficient, z in zip(step.earlier_x, earlier_x, strict=True):
        out += z * coefficient
    for coefficient, prediction in zip(step.earlier_x0, earlier_x0, strict=True):
        out += (prediction - x0) * coefficient
    return out, (x, *earlier_x)[: len(earlier_x)], (x0, *earlier_x0)[: len(earlier_x0)]
