"""The autoencoder, tile by tile: stage-1 images to latents before sampling, latents to results after it.

Group normalisation would make a tile differ from the same part of the whole image. So the statistics of the whole
image are measured first, see `models/shared_norms.py`; images in one tile need none.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, repeat
from typing import Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.stages import Wrapped

from diffbir_jax.files.trees import Tree
from diffbir_jax.imaging.colour import wavelet_colour
from diffbir_jax.models.apply import Params, apply
from diffbir_jax.models.controlnet import ConditionEncoder
from diffbir_jax.models.presets import Preset
from diffbir_jax.models.shared_norms import KnownNorms, Norms, apply_normed, first_norms, measure_norms, stops
from diffbir_jax.models.vae import AutoencoderKL
from diffbir_jax.restoration.encoder_tiles import (
    DEGREES,
    Tile,
    drawn_tiles,
    image_tiles,
    latent_tile,
    start_tiles,
)
from diffbir_jax.restoration.executor import Call, Executor
from diffbir_jax.restoration.geometry import Shape
from diffbir_jax.restoration.image import Frame
from diffbir_jax.restoration.one_step import beside
from diffbir_jax.restoration.tile_programs import in_batches
from diffbir_jax.sampling.guidance import Loss, fidelity_weight, held, latent_weight
from diffbir_jax.sampling.onestep import draw_posterior

T = TypeVar("T")
HalfName = Literal["encode", "decode"]


class Half(NamedTuple):
    """One half of the autoencoder.

    Attributes:
        stage: its name.
        function: its jitted function.
        params: the parameters that the program takes.
        static: its static arguments.
    """

    stage: HalfName
    function: Wrapped
    params: Params
    static: dict[str, object]


# From an image to what a half's program takes for each of its tiles.
Tiles = Callable[[Frame], Iterator[Tile]]


@functools.partial(jax.jit, static_argnames=("vae", "preset", "encoder", "loss"))
def encode_tiles(
    vae: AutoencoderKL,
    preset: Preset,
    encoder: ConditionEncoder | None,
    loss: Loss,
    params: Params,
    tiles: tuple[dict[str, Array], Norms | None],
    used: Array,
) -> Array:
    """Encode tiles to latents, guidance weights and, with an encoder of its own, the control's input.

    Args:
        vae: the autoencoder, of downsampling f.
        preset: tells which LoRA the autoencoder has, see `one_step.beside`.
        encoder: the control's own encoder; None if the control sees the latents.
        loss: of guidance.
        params: "vae" and, with an encoder, "condition"; "lora" and "modulation" if the preset has them.
        tiles: "image" (M, K, h, w, 3) in [0, 1] and "mask" (M, K, h, w, 1), a factor on the weight; with "noise"
            (M, K, h/f, w/f, c), standard normal, latents are drawn from the posterior; "degrees" (M, K, n) for
            autoencoders that depend on the degradation; the statistics of the images that the tiles belong to, None to
            normalise each tile by its own.
        used: see `in_batches`.

    Returns:
        (M, K, h/f, w/f, C): the scaled latents, then one channel with guidance's weight in latent space, then the
        output of `encoder`, if any.
    """

    def encode(batch: tuple[dict[str, Array], Norms | None]) -> Array:
        """Encode the tiles of one batch."""
        tile, norms = batch
        image = 2.0 * tile["image"] - 1.0
        with beside(preset, params, "vae", tile.get("degrees")):
            mean, logvar = apply_normed(vae, params["vae"], image, norms, "encode")
        if "noise" in tile:
            mean = draw_posterior(mean, logvar, tile["noise"])
        z = vae.config.scale_factor * mean
        channels = [z, latent_weight(loss, image, (z.shape[1], z.shape[2]), tile["mask"])]
        if encoder is not None:
            channels.append(apply(encoder, params["condition"], image))
        return jnp.concatenate(channels, axis=-1)

    return in_batches(encode, tiles, used)


@functools.partial(jax.jit, static_argnames=("vae", "levels", "gain"))
def decode_tiles(
    vae: AutoencoderKL,
    levels: int,
    gain: float,
    params: Params,
    tiles: tuple[dict[str, Array], Norms | None],
    used: Array,
) -> Array:
    """Decode latents to images with the colours of stage 1.

    Args:
        vae: the autoencoder, of downsampling f.
        levels: wavelet levels of the colour correction; 0: none.
        gain: factor on the detail, see `Preset.detail_gain`.
        params: "vae".
        tiles: "z" (M, K, h, w, c), scaled, and "clean" (M, K, f h, f w, 3) in about [0, 1], whose low frequencies the
            result takes; with "detail" (M, K), that share of the detail, see `detail_share`; statistics as in
            `encode_tiles`.
        used: see `in_batches`.

    Returns:
        (M, K, f h, f w, 3) float32 in about [0, 1].
    """

    def decode(batch: tuple[dict[str, Array], Norms | None]) -> Array:
        tile, norms = batch
        image = apply_normed(vae, params["vae"], tile["z"] / vae.config.scale_factor, norms, "decode")
        image = (image + 1.0) / 2.0
        image = wavelet_colour(image, tile["clean"], levels) if levels else image
        if "detail" not in tile:
            return image if gain == 1.0 else tile["clean"] + gain * (image - tile["clean"])
        share = gain * detail_share(tile["clean"], tile["detail"])
        return tile["clean"] + share * (image - tile["clean"])

    return in_batches(decode, tiles, used)


@functools.partial(jax.jit, static_argnames=("vae", "preset", "half", "stop"))
def measure_tiles(
    vae: AutoencoderKL,
    preset: Preset,
    half: HalfName,
    stop: int | None,
    params: Params,
    tiles: tuple[dict[str, Array], Array, KnownNorms | None],
    used: Array,
) -> Norms:
    """Measure the statistics of the pixels that tiles own, in the normalisations of one half of the autoencoder.

    Args:
        vae: the autoencoder, of downsampling f.
        preset: tells which LoRA the autoencoder has, see `one_step.beside`.
        half: which half.
        stop: measure only the first `stop` normalisations; None: all.
        params: "vae".
        tiles: what `encode_tiles` or `decode_tiles` takes; which latent pixels a tile owns, (M, K, h, w, 1); what is
            known of the image already.
        used: see `in_batches`.
    """

    def measure(batch: tuple[dict[str, Array], Array, KnownNorms | None]) -> Norms:
        tile, owned, known = batch
        x = 2.0 * tile["image"] - 1.0 if half == "encode" else tile["z"] / vae.config.scale_factor
        if half == "decode":
            return measure_norms(vae, params["vae"], x, owned, known, half, stop)
        with beside(preset, params, "vae", tile.get("degrees")):
            return measure_norms(vae, params["vae"], x, owned, known, half, stop)

    return in_batches(measure, tiles, used)


@functools.partial(jax.jit, static_argnames="loss")
def weigh_tiles(loss: Loss, tiles: dict[str, Array], used: Array) -> Array:
    """How far guidance holds each pixel, (M, K, h, w, 1); arguments as in `encode_tiles`."""
    return in_batches(lambda tile: held(loss, 2.0 * tile["image"] - 1.0, tile["mask"]), tiles, used)


def detail_share(clean: Array, detail: Array) -> Array:
    """How much of the generator's detail each pixel gets: d (1 - W) + d^2 W.

    Edges and texture get the share d itself, flat regions its square: invented detail is most visible there.

    Args:
        clean: (B, H, W, 3) in about [0, 1], stage-1 images, H and W even, whose `fidelity_weight` is W.
        detail: (B,) d in [0, 1]; 1 gives all, 0 none.

    Returns:
        (B, H, W, 1) in [0, 1].
    """
    share = detail[:, None, None, None]
    return share + (share - 1.0) * share * fidelity_weight(2.0 * clean - 1.0)


def encode(executor: Executor, frames: list[Frame], variant: int = 0) -> None:
    """Give images of one shape their latents, guidance weight, the control's hint, and what sampling starts from.

    If latents are drawn from the posterior, `variant` chooses the draw.
    """
    half, hint = _encoder(executor), executor.generator.encoder is not None
    tiles = functools.partial(drawn_tiles, executor, variant) if executor.preset.one_step else image_tiles
    _through(executor, frames, half, tiles, functools.partial(Frame.take_latent, hint=hint))
    if executor.starts_from_input:
        # By the same program, to compile no other; all its outputs but the latent are ignored.
        _through(executor, frames, half, start_tiles, functools.partial(Frame.take_start, hint=hint))


def decode(
    executor: Executor,
    frames: list[Frame],
    latents: list[np.ndarray],
    take: Callable[..., np.ndarray] = Frame.take_image,
) -> list[np.ndarray]:
    """The results of latents, one per image of one shape; `take` makes a result from a frame and its decoded tiles."""
    shares = [np.float32(executor.detail(frame.upscale)) for frame in frames]
    of = {frame.position: (z, share) for frame, z, share in zip(frames, latents, shares)}

    def tiles(frame: Frame) -> Iterator[Tile]:
        z, share = of[frame.position]
        grid = frame.grid("decode")
        for start in grid.starts:
            tile = {
                "z": latent_tile(executor, z, start, grid.size),
                "clean": frame.clean_tile(start, grid.size),
            }
            yield tile | {"detail": share} if executor.blends else tile

    return _through(executor, frames, _decoder(executor), tiles, take)


def maps(executor: Executor, frames: list[Frame]) -> list[np.ndarray]:
    """How far guidance holds each pixel of the results, (*output) uint8 each."""
    tiles = (tile for frame in frames for tile in image_tiles(frame))
    loss = executor.wanted.options.guidance_loss
    count = _count(frames, "encode")
    results = executor.stream(weigh_tiles, "encode", frames[0].shape, tiles, (), count, loss=loss)
    return [frame.take_map(results) for frame in frames]


def calls(executor: Executor, stage: HalfName, shape: Shape) -> list[Call]:
    """The programs that `encode` or `decode` needs for images of a shape."""
    batch, (height, width) = executor.staged(stage, shape), getattr(shape, stage)
    f, channels = executor.preset.vae.downsample, executor.preset.vae.embed_dim
    half = _encoder(executor) if stage == "encode" else _decoder(executor)

    def array(channels: int, down: int = 1) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((*batch, height // down, width // down, channels), jnp.float32)

    used = jax.ShapeDtypeStruct(batch, jnp.float32)
    image = {"image": array(3), "mask": array(1)}
    if executor.preset.one_step is not None:
        image["noise"] = array(channels, f)
    if executor.degrades:
        image["degrees"] = jax.ShapeDtypeStruct((*batch, DEGREES), jnp.float32)
    latent = {"z": array(channels, f), "clean": array(3)}
    share = {"detail": used} if executor.blends else {}
    tile = image if stage == "encode" else latent | share

    def call(function: Wrapped, tiles: Tree, static: dict[str, object]) -> Call:
        return executor.abstract_call(function, (half.params,), tiles, used, **static)

    if (height, width) == shape.canvas or not shares_norms(executor):
        return [call(half.function, (tile, None), half.static)]
    owned, exact = array(1, f), jax.ShapeDtypeStruct(batch, jnp.int32)
    first = call(measure_tiles, (tile, owned, None), _measuring(executor, half, None))
    norms = jax.eval_shape(functools.partial(measure_tiles, *first[2].values()), *first[1])
    passes = [
        call(
            measure_tiles,
            (tile, owned, KnownNorms(first_norms(norms, stop), exact)),
            _measuring(executor, half, stop),
        )
        for stop in sorted(set(stops(len(norms))))
    ]
    return [first, call(half.function, (tile, norms), half.static), *passes]


def shares_norms(executor: Executor) -> bool:
    """Whether tiles are normalised by statistics of their image; layer normalisation has none."""
    own = executor.preset.one_step is not None and executor.preset.one_step.own_norms
    return executor.plan.norms == "image" and executor.preset.vae.norm == "group" and not own


def _encoder(executor: Executor) -> Half:
    generator = executor.generator
    vae, encoder = generator.preset.make_vae(generator.dtype), generator.encoder
    loss = executor.wanted.options.guidance_loss
    static = {"vae": vae, "preset": generator.preset, "encoder": encoder, "loss": loss}
    names = ["vae", *(name for name in ("condition", "lora", "modulation") if name in generator.params)]
    return Half("encode", encode_tiles, {name: generator.params[name] for name in names}, static)


def _decoder(executor: Executor) -> Half:
    generator = executor.generator
    preset = generator.preset
    # Colours of published one-step restorers are those of whole images, see `one_step.finish`.
    static = {
        "vae": preset.make_vae(generator.dtype),
        "levels": 0 if preset.one_step is not None else preset.colour_levels,
        "gain": preset.detail_gain,
    }
    return Half("decode", decode_tiles, {"vae": generator.params["vae"]}, static)


def _through(
    executor: Executor,
    frames: list[Frame],
    half: Half,
    tiles: Tiles,
    take: Callable[[Frame, Iterator[Tree]], T],
) -> list[T]:
    """Take images through one half of the autoencoder.

    Images in one tile need no shared statistics, so they never share a batch with images in several.
    """
    shared = shares_norms(executor)
    cut = [frame for frame in frames if shared and len(frame.grid(half.stage).starts) > 1]
    whole = [frame for frame in frames if frame not in cut]
    norms = _measured(executor, cut, half, tiles)

    def pairs(frame: Frame) -> Iterable[tuple[Tile, Norms | None]]:
        return zip(tiles(frame), repeat(norms.get(frame.position)))

    results: dict[int, T] = {}
    for group in filter(None, (whole, cut)):
        every = (pair for frame in group for pair in pairs(frame))
        stream = _stream(executor, half, group, every, half.function, half.static)
        results |= {frame.position: take(frame, stream) for frame in group}
    return [results[frame.position] for frame in frames]


def _measured(executor: Executor, frames: list[Frame], half: Half, tiles: Tiles) -> dict[int, Norms]:
    """The images' statistics by position; each pass uses those of the passes before and makes more layers exact."""
    if not frames:
        return {}
    norms = _pass(executor, frames, half, tiles, None, {})
    count = len(norms[frames[0].position])
    for number, stop in enumerate(stops(count)[1:], start=1):
        exact = np.int32(number)
        known = {at: KnownNorms(first_norms(each, stop), exact) for at, each in norms.items()}
        more = _pass(executor, frames, half, tiles, stop, known)
        norms = {at: each | more[at] for at, each in norms.items()}
    return norms


def _pass(
    executor: Executor,
    frames: list[Frame],
    half: Half,
    tiles: Tiles,
    stop: int | None,
    known: dict[int, KnownNorms],
) -> dict[int, Norms]:
    """One pass: the statistics of the first `stop` normalisations, by position."""

    def triples(frame: Frame) -> Iterable[tuple[Tile, np.ndarray, KnownNorms | None]]:
        return zip(tiles(frame), frame.owned(half.stage), repeat(known.get(frame.position)))

    every = (triple for frame in frames for triple in triples(frame))
    stream = _stream(executor, half, frames, every, measure_tiles, _measuring(executor, half, stop))
    counts = [len(frame.grid(half.stage).starts) for frame in frames]
    parts = [list(islice(stream, count)) for count in counts]
    return {frame.position: frame.merged(half.stage, part) for frame, part in zip(frames, parts)}


def _stream(
    executor: Executor,
    half: Half,
    frames: list[Frame],
    tiles: Iterable[Tree],
    function: Wrapped,
    static: dict[str, object],
) -> Iterator[Tree]:
    # Passes that only measure are no progress: the time of each half is counted once.
    count = None if function is measure_tiles else _count(frames, half.stage)
    return executor.stream(function, half.stage, frames[0].shape, tiles, (half.params,), count, **static)


def _count(frames: list[Frame], stage: HalfName) -> int:
    return sum(len(frame.grid(stage).starts) for frame in frames)


def _measuring(executor: Executor, half: Half, stop: int | None) -> dict[str, object]:
    preset = executor.preset
    vae = preset.make_vae(executor.generator.dtype)
    return {"vae": vae, "preset": preset, "half": half.stage, "stop": stop}
