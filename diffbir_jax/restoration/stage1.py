"""Stage 1: the restoration module removes the degradation, tile by tile."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffbir_jax.imaging.canvas import from_depth
from diffbir_jax.models.apply import Module, Params, apply
from diffbir_jax.restoration.executor import Call, Executor
from diffbir_jax.restoration.geometry import Shape
from diffbir_jax.restoration.image import Frame
from diffbir_jax.restoration.tile_programs import in_batches


@functools.partial(jax.jit, static_argnames="module")
def clean_tiles(module: Module, params: Params, tiles: Array, used: Array) -> Array:
    """Clean tiles (M, K, h, w, 3) in [0, 1]: (M, K, s h, s w, 3) float32, s being the module's scale."""
    return in_batches(lambda x: apply(module, params, x).astype(jnp.float32), tiles, used)


def clean(executor: Executor, frames: list[Frame]) -> None:
    """Give images of one shape their stage-1 images, and release the inputs."""
    taken = [f for f in frames if executor.preset.rm is not None and f.request.clean is None]
    if taken:
        tiles = (tile for frame in taken for tile in frame.lq_tiles())
        module, params = executor.preset.make_rm(executor.generator.dtype), (executor.params["rm"],)
        count = sum(len(frame.rm_grid().starts) for frame in taken)
        results = executor.stream(clean_tiles, "rm", frames[0].shape, tiles, params, count, module=module)
        for frame in taken:
            frame.take_clean(results)
            frame.regain_texture(executor.texture(frame.upscale))
    keep = executor.starts_from_input and executor.needs_stage2(frame.upscale for frame in frames)
    for frame in frames:
        if frame not in taken:
            frame.skip_stage1()
        if executor.degrades:
            frame.degrees = _degrees(executor, frame.request.image)
        frame.release(keep)


def _degrees(executor: Executor, image: np.ndarray) -> np.ndarray:
    """How degraded an input is, (n,) in (0, 1); LoRAs of some one-step restorers depend on it."""
    module = executor.preset.make_degradation(executor.generator.dtype)
    pixels = jnp.asarray(from_depth(image)[None])
    return np.asarray(executor.programs(_estimate, executor.params["degradation"], pixels, module=module))[0]


@functools.partial(jax.jit, static_argnames="module")
def _estimate(module: Module, params: Params, image: Array) -> Array:
    return apply(module, params, image)


def calls(executor: Executor, shape: Shape) -> list[Call]:
    """The programs that `clean` needs for images of a shape."""
    batch = executor.staged("rm", shape)
    tiles = jax.ShapeDtypeStruct((*batch, *shape.rm, 3), jnp.float32)
    used = jax.ShapeDtypeStruct(batch, jnp.float32)
    module = executor.preset.make_rm(executor.generator.dtype)
    return [executor.abstract_call(clean_tiles, (executor.params["rm"],), tiles, used, module=module)]
