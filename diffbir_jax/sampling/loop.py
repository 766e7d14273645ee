"""The one loop that drives every sampler."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffbir_jax.sampling.denoiser import Denoiser, DenoiserInputs


class Sampler(NamedTuple):
    """A sampler: how it starts and how it steps.

    Attributes:
        init: latents x (B, h, w, c) -> carry, a tuple whose first entry is x; samplers that look back
            keep earlier predictions behind it.
        step: (denoise, carry, step, noise) -> carry. `denoise` is (z_t, level) -> x0, `step` this step's
            slice of the table, `noise` standard normal of x's shape.
    """

    init: Callable[[Array], tuple]
    step: Callable[[Callable, Any, Any, Array], tuple]


def image_keys(seed: int, indices: Sequence[int]) -> Array:
    """A random key per image, from its index rather than from its place in a batch.

    Args:
        seed: of the whole run.
        indices: index of each image of the batch within the run, each at least 0.

    Returns:
        (B,) typed keys: an image draws the same noise whatever it is batched with.
    """
    key = jax.random.key(seed)
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.asarray(indices, jnp.uint32))


def draw_noise(keys: Array, draw: int | Array, shape: tuple[int, ...]) -> Array:
    """Standard normal noise, float32.

    Args:
        keys: (B,) typed keys, one per image.
        draw: which draw of these keys; `sample` uses 1 + the step's number, 0 is free for the start.
        shape: (B, h, w, c).
    """
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, draw), shape[1:]))(keys)


@functools.partial(jax.jit, static_argnames=("sampler", "denoiser"))
def sample(
    sampler: Sampler, denoiser: Denoiser, inputs: DenoiserInputs, x: Array, steps: Any, noise: Array
) -> Array:
    """Run a sampler from noisy latents to clean ones, as one `lax.scan`.

    Compiled once per sampler, denoiser, set of shapes and number of steps: seeds, scales, prompts,
    timesteps and parameters are values. Keep the denoiser's callables: new function objects compile
    anew.

    Args:
        sampler: how to step, e.g. of `samplers.make_sampler`.
        denoiser: network and guidance, as callables.
        inputs: what they read.
        x: (B, h, w, c) float32, z_t at the first of the steps: `draw_noise(keys, 0, shape)` for a start
            from pure noise.
        steps: the sampler's table, a tree of (N,) arrays in sampling order.
        noise: (B,) keys (`image_keys`), or the noise itself: (N, B, h, w, c), one entry per step.

    Returns:
        x0, float32 (B, h, w, c).

    Raises:
        ValueError: noise for another number of steps.
    """
    count = jax.tree.leaves(steps)[0].shape[0]
    from_keys = jnp.issubdtype(noise.dtype, jax.dtypes.prng_key)
    if not from_keys and len(noise) != count:
        raise ValueError(
            f"noise for {len(noise)} steps given; the sampler takes {count}: give it one entry per step"
        )
    denoise = functools.partial(denoiser, inputs)

    def body(carry: tuple, scanned: tuple[Array, Any]) -> tuple[tuple, None]:
        index, step = scanned
        draw = draw_noise(noise, index + 1, x.shape) if from_keys else noise[index]
        return sampler.step(denoise, carry, step, draw), None

    carry, _ = jax.lax.scan(body, sampler.init(x), (jnp.arange(count), steps))
    return carry[0]
