"""Stage 2's sampling: latents of the results, for a batch of images that are padded to canvases of one size."""

import jax
import jax.numpy as jnp
import numpy as np

from diffbir_jax.console.errors import UserError
from diffbir_jax.imaging.tiling import Grid
from diffbir_jax.restoration import encoder_tiles, known
from diffbir_jax.restoration.executor import Call, Executor
from diffbir_jax.restoration.generator import Context
from diffbir_jax.restoration.geometry import Shape, stage_grid, tiles_on_canvas
from diffbir_jax.restoration.image import Frame, padded_whole, stacked
from diffbir_jax.restoration.results import NOTHING, STAGE_NAMES
from diffbir_jax.sampling.denoiser import Denoiser, DenoiserInputs
from diffbir_jax.sampling.guidance import pixel_weight
from diffbir_jax.sampling.layout import Conditioned, Layout, make_layout
from diffbir_jax.sampling.loop import image_keys, sample
from diffbir_jax.sampling.operators import Measured
from diffbir_jax.sampling.tables import LinearStep

# What `sample` takes besides the denoiser.
Arguments = tuple[DenoiserInputs, jax.Array, LinearStep, jax.Array]
# One program per shape, instead of one operation after the other.
_pixel_weight = jax.jit(pixel_weight, static_argnums=0)


def generate(executor: Executor, frames: list[Frame], variant: int) -> list[np.ndarray]:
    """Sample the latents (h, w, c) of the padded images, one per frame; the last variant releases what it read."""
    executor.programs.doing = STAGE_NAMES["sample"]
    size = executor.pack_size(frames[0].shape)
    filled = frames + [frames[-1]] * (size - len(frames))
    given = conditioned(executor, frames, filled)
    if variant == executor.wanted.count - 1:
        for frame in frames:
            frame.latent, frame.weight, frame.hint, frame.start = (NOTHING,) * 4
            frame.last = True
    keys = image_keys(executor.wanted.options.seed, [frame.request.index for frame in filled], variant)
    context = executor.contexts([frame.request.caption for frame in filled])
    denoiser, arguments = steered(executor, given, keys, context, _tape(executor, filled))
    arguments = _placed(executor, arguments, given.layout is None)
    count = tiles_on_canvas(frames[0].shape, executor.plan) * len(frames)
    executor.tell("sample", frames[0].shape, 0, count)
    z = np.asarray(executor.programs(sample, *arguments, denoiser=denoiser))
    executor.tell("sample", frames[0].shape, count, count)
    f = executor.preset.vae.downsample
    sides = [[side // f for side in frame.sides.padded] for frame in frames]
    return [canvas[:height, :width] for canvas, (height, width) in zip(z, sides)]


def steered(
    executor: Executor,
    conditioned: Conditioned,
    keys: jax.Array,
    context: Context | None,
    noise: jax.Array | None = None,
) -> tuple[Denoiser, Arguments]:
    """The denoiser, and the other arguments of `sample`."""
    whole = conditioned.layout is None
    denoiser, inputs, x, steps, noise = executor.generator.steered(
        conditioned,
        executor.wanted.options,
        keys,
        context,
        noise,
        remat=executor.plan.remat,
        spread=None if whole else executor.programs.sharding(0),
    )
    return denoiser, (inputs, x, steps, noise)


def calls(executor: Executor, shape: Shape) -> list[Call]:
    """The program that `generate` needs for images of a shape."""
    f, options, plan = executor.preset.vae.downsample, executor.wanted.options, executor.plan
    images = executor.pack_size(shape)
    height, width = (side // f for side in shape.canvas)

    def array(scale: int, channels: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((images, scale * height, scale * width, channels), jnp.float32)

    grid = stage_grid(shape.canvas, shape.sample, plan.sample).scaled(1, f)
    layout = _layout(executor, shape, [grid], images)
    rgb = bool(options.guidance_scale) and options.guidance_space == "rgb"
    latent = array(1, executor.preset.vae.embed_dim)
    hint = None if executor.generator.encoder is None else latent
    start = latent if executor.starts_from_input else None
    degrees = (
        jax.ShapeDtypeStruct((images, encoder_tiles.DEGREES), jnp.float32) if executor.degrades else None
    )
    spec = options.known
    measured = None if spec is None else known.abstract(spec, images, shape.canvas)
    given = (latent, array(f if rgb else 1, 1), array(f, 3) if rgb else None, hint, start, degrees, measured)
    # `eval_shape` returns arrays alone; the denoiser that belongs to them is kept here.
    denoisers: list[Denoiser] = []
    # Computed and cached now: inside `eval_shape` it would be a tracer, which must not be cached.
    context = executor.context

    def arguments(
        latent: jax.Array,
        weight: jax.Array,
        target: jax.Array | None,
        hint: jax.Array | None,
        start: jax.Array | None,
        degrees: jax.Array | None,
        measured: Measured | None,
        keys: jax.Array,
    ) -> Arguments:
        """What `sample` takes for these; only its shapes are used."""
        given = Conditioned(latent, weight, target, layout, hint, start, degrees, measured)
        denoiser, rest = steered(executor, given, keys, context)
        denoisers.append(denoiser)
        return rest

    keys = jax.eval_shape(lambda: image_keys(0, range(images)))
    inputs, *rest = jax.eval_shape(arguments, *given, keys)
    # Those that are held: what came out of `eval_shape` does not tell how they lie in memory.
    params = {name: executor.params[name] for name in executor.generator.sampling_modules}
    guidance = inputs.guidance and inputs.guidance._replace(params=executor.params["vae"] if rgb else None)
    placed = _placed(executor, (inputs._replace(params=params, guidance=guidance), *rest), layout is None)
    return [(sample, placed, {"denoiser": denoisers[0]})]


def check_noise(executor: Executor, frame: Frame) -> None:
    """Raise ValueError unless the noise of a request fits its latents and the sampler."""
    if frame.request.noise is None or executor.wanted.stage1_only:
        return
    if executor.preset.one_step is not None:
        encoder_tiles.check_noise(executor, frame)
        return
    f, channels = executor.preset.vae.downsample, executor.preset.vae.embed_dim
    count = 1 + executor.generator.calls(executor.wanted.options)
    needed = (count, *(side // f for side in frame.sides.padded), channels)
    if frame.request.noise.shape != needed:
        raise UserError(f"noise is {frame.request.noise.shape}; this image and these steps need {needed}")


def _tape(executor: Executor, frames: list[Frame]) -> jax.Array | None:
    """The noise of the requests on their canvases, (1 + calls, B, h, w, c); None if it is drawn."""
    tapes = [frame.request.noise for frame in frames if frame.request.noise is not None]
    if not tapes or executor.preset.one_step is not None:
        return None
    height, width = (side // executor.preset.vae.downsample for side in frames[0].shape.canvas)
    draws = [stacked(list(draw), (height, width)) for draw in zip(*tapes, strict=True)]
    return jnp.asarray(np.stack(draws))


def _placed(executor: Executor, arguments: Arguments, whole: bool) -> Arguments:
    """Put the arguments of `sample` on the devices: each gets a part of the images or, in tiles, of all tiles."""
    (inputs, x, steps, noise), place, axis = arguments, executor.programs.place, 0 if whole else None
    guidance = inputs.guidance and inputs.guidance._replace(
        target=place(inputs.guidance.target, axis),
        weight=place(inputs.guidance.weight, axis),
        repeats=place(inputs.guidance.repeats),
        tiles=place(inputs.guidance.tiles),
    )
    corrected = inputs.known and inputs.known._replace(
        measured=place(inputs.known.measured, axis),
        scale=place(inputs.known.scale),
        repeats=place(inputs.known.repeats),
        places=place(inputs.known.places),
    )
    cond, uncond = place((inputs.cond, inputs.uncond), axis)
    inputs = inputs._replace(cond=cond, uncond=uncond, guidance=guidance, known=corrected)
    per_image = 1 if noise.ndim > 1 else 0  # of a tape, the first axis counts draws
    return inputs, place(x, axis), place(steps), place(noise, per_image if whole else None)


def conditioned(executor: Executor, frames: list[Frame], filled: list[Frame]) -> Conditioned:
    """What steers the sampling of a pack."""
    options, f = executor.wanted.options, executor.preset.vae.downsample
    height, width = filled[0].shape.canvas
    sides = (height // f, width // f)
    # Put on the device once, for the network and for guidance.
    latent = jnp.asarray(stacked([frame.latent for frame in filled], sides))
    encoded = executor.generator.encoder is not None
    hint = stacked([frame.hint for frame in filled], sides) if encoded else None
    from_input = executor.starts_from_input
    start = jnp.asarray(stacked([frame.start for frame in filled], sides)) if from_input else None
    degrees = np.stack([np.asarray(frame.degrees) for frame in filled]) if executor.degrades else None
    grids = [frame.grid("sample").scaled(1, f) for frame in frames]
    layout = _layout(executor, frames[0].shape, grids, len(filled))
    says = [frame.known for frame in filled if frame.known is not None]
    measured = known.stacked(says, (height, width)) if says else None
    if options.guidance_space == "latent" or not options.guidance_scale:
        weight = stacked([frame.weight for frame in filled], sides)
        return Conditioned(latent, weight, None, layout, hint, start, degrees, measured)
    # Borders are repeated up to the canvas: next to zeros they would look like edges, which guidance leaves free.
    targets = [2.0 * padded_whole(frame, frame.clean_tile) - 1.0 for frame in filled]
    target = stacked(targets, (height, width), "edge")
    mask = stacked([padded_whole(frame, frame.mask_tile) for frame in filled], (height, width))
    weight = _pixel_weight(options.guidance_loss, jnp.asarray(target), jnp.asarray(mask))
    return Conditioned(latent, weight, target, layout, hint, start, degrees, measured)


def _layout(executor: Executor, shape: Shape, grids: list[Grid], canvases: int) -> Layout | None:
    """The tiles of images of a shape on their canvases; None if every image is one tile."""
    count = tiles_on_canvas(shape, executor.plan)
    if count == 1:
        return None
    f = executor.preset.vae.downsample
    height, width = (side // f for side in shape.canvas)
    batch = executor.batch("sample", shape)
    return make_layout(grids, (height, width), canvases * count, batch, f, canvases)
