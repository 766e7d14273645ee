"""Packs of images through all stages: what fits together is computed together, whatever file it came from."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, repeat
from typing import Any, NamedTuple

import jax
import numpy as np

from diffbir_jax.frames import Frame, Request
from diffbir_jax.imaging.canvas import Padding, cut_padded
from diffbir_jax.plan import Plan
from diffbir_jax.programs import Programs
from diffbir_jax.sampling.loop import image_keys, sample
from diffbir_jax.sampling.options import Options
from diffbir_jax.stage2 import Conditioned, Context, Generator, Layout, guidance_weight, make_layout
from diffbir_jax.stages import clean_tiles, decode_tiles, encode_tiles, stream, weigh_tiles

# Tiles that one call of a program takes, if a batch has fewer: calls cost a little each.
STAGED = 4
# Pixels of results that may wait for others of their shape before they are computed anyway.
WAITING = 2**26


class Restored(NamedTuple):
    """A restored image and what it came from, (H, W, 3) RGB of the output size each, uint8 or uint16 as the input.

    Attributes:
        image: the result.
        stage1: the restoration module's output; None if it was not to be kept.
        upscaled: the input, enlarged by Pillow's bicubic filter; None likewise.
        fidelity: how far guidance holds each pixel to stage 1, (H, W) uint8, 255 is 1; None unless asked for.
    """

    image: np.ndarray
    stage1: np.ndarray | None = None
    upscaled: np.ndarray | None = None
    fidelity: np.ndarray | None = None


class Outcome(NamedTuple):
    """What became of a request.

    Attributes:
        position: of the request, counted from 0.
        results: one per variant; none if it failed.
        error: why it failed, or None.
    """

    position: int
    results: tuple[Restored, ...] = ()
    error: Exception | None = None


class Wanted(NamedTuple):
    """What a caller wants of every image; see `Restorer.restore_many`."""

    options: Options
    count: int = 1
    keep: bool = True
    with_fidelity: bool = False
    stage1_only: bool = False
    context: Context | None = None


class Packer:
    """Collects images that share programs, and takes each pack through the stages of a generator."""

    def __init__(self, generator: Generator, programs: Programs, plan: Plan, wanted: Wanted):
        """Take the networks, what compiles them, how images are cut and what is wanted."""
        self.generator, self.programs, self.plan, self.wanted = generator, programs, plan, wanted
        self.preset, self.params = generator.preset, generator.params

    def outcomes(self, requests: Iterable[Request], upscale: float) -> Iterator[Outcome]:
        """Yield an outcome per request, pack by pack."""
        waiting: dict[Any, list[Frame]] = {}
        for position, request in enumerate(requests):
            try:
                frame = Frame(position, request, upscale, self.preset, self.plan, self.generator.dtype)
            except (ValueError, MemoryError) as error:
                yield Outcome(position, error=error)
                continue
            waiting.setdefault(frame.shape, []).append(frame)
            while full := self._full(waiting):
                yield from self._restored(waiting.pop(full))
        for frames in waiting.values():
            yield from self._restored(frames)

    def _full(self, waiting: dict[Any, list[Frame]]) -> Any:
        """The shape of a pack to compute now: a full one or, when much is waiting, the largest; else None."""
        for shape, frames in waiting.items():
            if len(frames) == self.pack_size(frames[0]):
                return shape
        held = {shape: sum(f.upscaled.size // 3 for f in frames) for shape, frames in waiting.items()}
        return max(held, key=lambda shape: held[shape]) if sum(held.values()) > WAITING else None

    def pack_size(self, frame: Frame) -> int:
        """How many images like this one go together: a batch full of tiles, if one alone does not fill it."""
        tiles = self._tiles_on_canvas(frame)
        return max(1, self.plan.sample.batch // tiles)

    def _tiles_on_canvas(self, frame: Frame) -> int:
        """How many tiles the diffusion model sees of an image that fills its canvas."""
        return len(frame.canvas_grid().starts)

    def _restored(self, frames: list[Frame]) -> list[Outcome]:
        """Take a pack through all stages."""
        try:
            results = self._results(frames)
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return [Outcome(frame.position, error=error) for frame in frames]
        return [
            Outcome(frame.position, error=frame.error)
            if frame.error
            else Outcome(frame.position, tuple(found))
            for frame, found in zip(frames, results)
        ]

    def _results(self, frames: list[Frame]) -> list[list[Restored]]:
        upscaled = [frame.upscaled if self.wanted.keep else None for frame in frames]
        self._clean(frames)
        if self.wanted.stage1_only:
            images = [frame.shown_clean() for frame in frames]
            return [[Restored(image, image, up)] for image, up in zip(images, upscaled)]
        stage1 = [frame.shown_clean() if self.wanted.keep else None for frame in frames]
        self._encode(frames)
        maps = self._maps(frames) if self.wanted.with_fidelity else [None] * len(frames)
        results: list[list[Restored]] = [[] for _ in frames]
        for variant in range(self.wanted.count):
            latents = self._sample(frames, variant)
            for found, image, *rest in zip(results, self._decode(frames, latents), stage1, upscaled, maps):
                found.append(Restored(image, *rest))
        return results

    def _clean(self, frames: list[Frame]) -> None:
        ready = self.preset.rm is None
        taken = [frame for frame in frames if not (ready or frame.request.clean is not None)]
        if taken:
            module = self.preset.make_rm(self.generator.dtype)
            tiles = (tile for frame in taken for tile in frame.lq_tiles())
            found = self._stream(clean_tiles, "rm", tiles, module=module)
            for frame in taken:
                frame.take_clean(found)
        for frame in frames:
            if frame not in taken:
                frame.skip_stage1()
            frame.release()

    def _encode(self, frames: list[Frame]) -> None:
        static = {
            "vae": self.preset.make_vae(self.generator.dtype),
            "loss": self.wanted.options.guidance_loss,
        }

        def tiles(frame: Frame, extra: Any) -> Iterator[dict[str, Any]]:
            grid = frame.grid("encode")
            for start, more in zip(grid.starts, extra):
                image, mask = frame.clean_tile(start, grid.size), frame.mask_tile(start, grid.size)
                yield {"image": image, "mask": mask, **more}

        self._through(frames, "encode", encode_tiles, static, tiles, Frame.take_latent)

    def _decode(self, frames: list[Frame], latents: list[np.ndarray]) -> list[np.ndarray]:
        static = {"vae": self.preset.make_vae(self.generator.dtype), "levels": self.preset.colour_levels}
        of = {frame.position: z for frame, z in zip(frames, latents)}

        def tiles(frame: Frame, extra: Any) -> Iterator[dict[str, Any]]:
            grid = frame.grid("decode")
            for start, more in zip(grid.starts, extra):
                z = self._latent_tile(of[frame.position], start, grid.size)
                yield {"z": z, "clean": frame.clean_tile(start, grid.size), **more}

        return self._through(frames, "decode", decode_tiles, static, tiles, Frame.take_image)

    def _latent_tile(self, z: np.ndarray, start: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        f = self.preset.vae.downsample
        top, left = start // f
        return z[top : top + size[0] // f, left : left + size[1] // f]

    def _through(
        self, frames: list[Frame], stage: str, function: Any, static: dict, tiles: Any, take: Any
    ) -> list[Any]:
        """Take images through one half of the autoencoder: measure, then compute."""
        norms = self._norms(frames, stage, function, static, tiles)

        def computed(cut: bool) -> Iterator[Any]:
            chosen = (frame for frame in frames if bool(norms[frame.position]) == cut)
            every = (tile for frame in chosen for tile in tiles(frame, repeat(norms[frame.position])))
            return self._stream(function, stage, every, **static)

        # Images in one tile have no statistics: their tiles are not of the kind that others could share a batch with.
        found = {cut: computed(cut) for cut in (False, True)}
        return [take(frame, found[bool(norms[frame.position])]) for frame in frames]

    def _norms(
        self, frames: list[Frame], stage: str, function: Any, static: dict, tiles: Any
    ) -> dict[int, dict[str, Any]]:
        """The images' statistics, {"norms": ...}, by position; nothing for images in one tile."""
        norms: dict[int, dict[str, Any]] = {frame.position: {} for frame in frames}
        cut = [frame for frame in frames if len(frame.grid(stage).starts) > 1]
        passes = int(bool(cut) and self.plan.norms == "image")
        number = 0
        while number < passes:

            def measured(frame: Frame, number: int = number) -> Iterator[Any]:
                known = norms[frame.position] and norms[frame.position] | {"exact": np.int32(number)}
                return tiles(frame, ({"owned": owned, **known} for owned in frame.owned(stage)))

            found = self._stream(function, stage, (t for frame in cut for t in measured(frame)), **static)
            for frame in cut:
                parts = list(islice(found, len(frame.grid(stage).starts)))
                norms[frame.position] = {"norms": frame.merged(stage, parts)}
                passes = len(parts[0])
            number += 1
        return norms

    def _maps(self, frames: list[Frame]) -> list[np.ndarray]:
        def tiles(frame: Frame) -> Iterator[dict[str, Any]]:
            grid = frame.grid("encode")
            for start in grid.starts:
                yield {"image": frame.clean_tile(start, grid.size), "mask": frame.mask_tile(start, grid.size)}

        every = (tile for frame in frames for tile in tiles(frame))
        loss = self.wanted.options.guidance_loss
        found = self._stream(weigh_tiles, "encode", every, params=False, loss=loss)
        return [frame.take_map(found) for frame in frames]

    def _stream(
        self, function: Any, stage: str, tiles: Iterable[Any], params: bool = True, **static: Any
    ) -> Iterator[Any]:
        """The results of a stage's program for tiles, in order."""
        batch = getattr(self.plan, stage).batch
        weights = (self.params["rm" if stage == "rm" else "vae"],) if params else ()

        def call(stacked: Any, used: np.ndarray) -> Any:
            placed = self.programs.place((stacked, used), axis=1)
            return self.programs(function, *weights, *placed, **static)

        return stream(call, tiles, (max(1, STAGED // batch), batch))

    def _sample(self, frames: list[Frame], variant: int) -> list[np.ndarray]:
        """Latents of the results, of the padded images."""
        size = self.pack_size(frames[0])
        filled = frames + [frames[-1]] * (size - len(frames))
        given = self._conditioned(frames, filled)
        keys = image_keys(self.wanted.options.seed, [frame.request.index for frame in filled], variant)
        tiled = given.layout is not None
        given, keys = self._spread(given, keys, None if tiled else 0)
        denoiser, *arguments = self.generator.steered(
            given,
            self.wanted.options,
            keys,
            self.wanted.context,
            remat=self.plan.remat,
            spread=self.programs.sharding(0) if tiled else None,
        )
        z = np.asarray(self.programs(sample, *self.programs.settle(arguments), denoiser=denoiser))
        return [z[i, : f.latent.shape[0], : f.latent.shape[1]] for i, f in enumerate(frames)]

    def _spread(self, given: Conditioned, keys: jax.Array, axis: int | None) -> tuple[Conditioned, jax.Array]:
        """Put what steers sampling on the devices: each its images, or all of them everywhere."""
        arrays = {
            name: self.programs.place(getattr(given, name), axis) for name in ("latent", "weight", "target")
        }
        return given._replace(**arrays), self.programs.place(keys, axis)

    def _conditioned(self, frames: list[Frame], filled: list[Frame]) -> Conditioned:
        """What steers the sampling of a pack."""
        options, f = self.wanted.options, self.preset.vae.downsample
        height, width = filled[0].shape.canvas
        sides = (height // f, width // f)
        latent = _stacked([frame.latent for frame in filled], sides)
        layout = self._layout(frames, len(filled), sides)
        if options.guidance_space == "latent" or not options.guidance_scale:
            return Conditioned(latent, _stacked([frame.weight for frame in filled], sides), None, layout)
        # Its borders are repeated to the canvas's: beside zeros they would pass for edges, which guidance spares.
        whole = [2.0 * _whole(frame, frame.clean_tile) - 1.0 for frame in filled]
        target = _stacked(whole, (height, width), "edge")
        mask = _stacked([_whole(frame, frame.mask_tile) for frame in filled], (height, width))
        weight = guidance_weight(options.guidance_loss, "rgb", target, latent, mask)
        return Conditioned(latent, weight, target, layout)

    def _layout(self, frames: list[Frame], canvases: int, sides: tuple[int, int]) -> Layout | None:
        """The tiles of a pack; None if every image is one."""
        count = self._tiles_on_canvas(frames[0])
        if count == 1:
            return None
        f = self.preset.vae.downsample
        grids = [frame.grid("sample").scaled(1, f) for frame in frames]
        return make_layout(grids, sides, canvases * count, self.plan.sample.batch, f, canvases)


def _whole(frame: Frame, tile: Any) -> np.ndarray:
    return tile(np.zeros(2, np.int32), frame.sides.padded)


def _stacked(
    images: Sequence[np.ndarray], sides: tuple[int, int], beside: Padding = "constant"
) -> np.ndarray:
    """Images on canvases, (B, *sides, C) float32, zeros beside them or their borders repeated."""
    out = np.empty((len(images), *sides, images[0].shape[2]), np.float32)
    for canvas, image in zip(out, images):
        canvas[...] = cut_padded(image, np.zeros(2, np.int32), sides, beside)
    return out
