"""Packs of images through all stages: what fits together is computed together, whatever file it came from."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, repeat
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffbir_jax.models.apply import Params
from diffbir_jax.models.shared_norms import Norms, first_norms, stops
from diffbir_jax.restoration.compiled import Programs
from diffbir_jax.restoration.generator import Context, Generator, guidance_weight
from diffbir_jax.restoration.geometry import Shape, check_plan, tiles_on_canvas
from diffbir_jax.restoration.image import Frame, Request, padded_whole, stacked
from diffbir_jax.restoration.plan import Plan
from diffbir_jax.restoration.results import NOTHING, Outcome, Restored, Wanted
from diffbir_jax.restoration.tile_programs import clean_tiles, decode_tiles, encode_tiles, stream, weigh_tiles
from diffbir_jax.sampling.layout import Conditioned, Layout, make_layout
from diffbir_jax.sampling.loop import image_keys, sample

# Tiles that one call of a program takes, if a batch has fewer: calls cost a little each.
STAGED = 4
# Pixels of results that may wait for others of their shape before they are computed anyway.
WAITING = 2**26


class Half(NamedTuple):
    """One half of the autoencoder.

    Attributes:
        stage: its name.
        function: its program.
        static: static arguments of that, in order.
        tiles: (image, one dict per tile) -> what the program takes of each tile, with the entries of the dicts.
    """

    stage: str
    function: Any
    static: dict[str, Any]
    tiles: Callable[[Frame, Iterable[Any]], Iterator[dict[str, Any]]]


class Packer:
    """Collects images that share programs, and takes each pack through the stages of a generator."""

    def __init__(self, generator: Generator, programs: Programs, plan: Plan, wanted: Wanted):
        """Take the networks, what compiles them, how images are cut and what is wanted.

        Raises:
            ValueError: the networks cannot be cut so, see `check_plan`.
        """
        check_plan(plan, generator.preset)
        self.generator, self.programs, self.plan, self.wanted = generator, programs, plan, wanted
        self.preset, self.params = generator.preset, generator.params

    @functools.cached_property
    def context(self) -> Context | None:
        """Embeddings of the prompts; None for networks that read none."""
        options = self.wanted.options
        if self.wanted.context is not None or self.preset.text is None:
            return self.wanted.context
        return self.generator.embed(options.pos_prompt), self.generator.embed(options.neg_prompt)

    def outcomes(self, requests: Iterable[Request], upscale: float) -> Iterator[Outcome]:
        """Yield an outcome per request, pack by pack."""
        waiting: dict[Any, list[Frame]] = {}
        # Frames alone hold the images, and let go of them.
        frames = map(functools.partial(self._frame, upscale), itertools.count(), requests)
        while frame := next(frames, None):
            if isinstance(frame, Outcome):
                yield frame
                continue
            waiting.setdefault(frame.shape, []).append(frame)
            del frame
            while full := self._full(waiting):
                yield from self._restored(waiting.pop(full))
        while waiting:
            yield from self._restored(waiting.popitem()[1])

    def _frame(self, upscale: float, position: int, request: Request) -> Frame | Outcome:
        try:
            return Frame(position, request, upscale, self.preset, self.plan, self.generator.dtype)
        except (ValueError, MemoryError) as error:
            return Outcome(position, error=error)

    def _full(self, waiting: dict[Any, list[Frame]]) -> Any:
        """The shape of a pack to compute now: a full one or, when much is waiting, the largest; else None."""
        for shape, frames in waiting.items():
            if len(frames) == self.pack_size(frames[0]):
                return shape
        held = {shape: sum(f.upscaled.size // 3 for f in frames) for shape, frames in waiting.items()}
        return max(held, key=lambda shape: held[shape]) if sum(held.values()) > WAITING else None

    def pack_size(self, frame: Frame) -> int:
        """How many images like this one go together: a batch full of tiles, if one alone does not fill it."""
        return max(1, self.batch("sample", frame.shape) // tiles_on_canvas(frame.shape, self.plan))

    def batch(self, stage: str, shape: Shape) -> int:
        """How many tiles of images of a shape a stage sees at once."""
        return self.plan.batch_of(stage, getattr(shape, stage))

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
        upscaled = [frame.upscaled if self.wanted.keep else NOTHING for frame in frames]
        self._clean(frames)
        if self.wanted.stage1_only or not (self.wanted.with_fidelity or any(map(self._detail, frames))):
            images = [frame.shown_clean() for frame in frames]
            return [[Restored(image, image, up)] for image, up in zip(images, upscaled)]
        stage1 = [frame.shown_clean() if self.wanted.keep else NOTHING for frame in frames]
        self._encode(frames)
        maps = self._maps(frames) if self.wanted.with_fidelity else [None] * len(frames)
        results: list[list[Restored]] = [[] for _ in frames]
        for variant in range(self.wanted.count):
            latents = self._sample(frames, variant)
            images = self._decode(frames, latents)
            for found, image, clean, up, shown in zip(results, images, stage1, upscaled, maps):
                found.append(Restored(image, clean, up, shown))
        return results

    @property
    def shares_norms(self) -> bool:
        """Whether tiles are normalised by statistics of their image; layer normalisation has none."""
        return self.plan.norms == "image" and self.preset.vae.norm == "group"

    @property
    def encoding(self) -> dict[str, Any]:
        """Static arguments of the autoencoder's first half, but for `stop`."""
        loss, vae = self.wanted.options.guidance_loss, self.preset.make_vae(self.generator.dtype)
        return {"vae": vae, "encoder": self.generator.encoder, "loss": loss}

    def weights(self, function: Any) -> tuple[Params, ...]:
        """The parameters that a stage's program takes."""
        if function is encode_tiles:
            return ({name: self.params[name] for name in ("vae", "condition") if name in self.params},)
        network = {clean_tiles: "rm", decode_tiles: "vae"}.get(function)
        return () if network is None else (self.params[network],)

    def _clean(self, frames: list[Frame]) -> None:
        ready = self.preset.rm is None
        taken = [frame for frame in frames if not (ready or frame.request.clean is not None)]
        if taken:
            module = self.preset.make_rm(self.generator.dtype)
            tiles = (tile for frame in taken for tile in frame.lq_tiles())
            found = self._stream(clean_tiles, "rm", frames, tiles, {"module": module})
            for frame in taken:
                frame.take_clean(found)
        for frame in frames:
            if frame not in taken:
                frame.skip_stage1()
            frame.release()

    def _encode(self, frames: list[Frame]) -> None:
        def tiles(frame: Frame, extra: Iterable[Any]) -> Iterator[dict[str, Any]]:
            grid = frame.grid("encode")
            for start, more in zip(grid.starts, extra):
                image, mask = frame.clean_tile(start, grid.size), frame.mask_tile(start, grid.size)
                yield {"image": image, "mask": mask, **more}

        take = functools.partial(Frame.take_latent, hint=self.generator.encoder is not None)
        self._through(frames, Half("encode", encode_tiles, self.encoding | {"stop": None}, tiles), take)

    def _decode(self, frames: list[Frame], latents: list[np.ndarray]) -> list[np.ndarray]:
        of = {frame.position: z for frame, z in zip(frames, latents)}
        shares = {frame.position: np.float32(self._detail(frame)) for frame in frames}
        blends = any(share != 1.0 for share in shares.values())

        def tiles(frame: Frame, extra: Iterable[Any]) -> Iterator[dict[str, Any]]:
            grid = frame.grid("decode")
            for start, more in zip(grid.starts, extra):
                z = self._latent_tile(of[frame.position], start, grid.size)
                blended = {"detail": shares[frame.position]} if blends else {}
                yield {"z": z, "clean": frame.clean_tile(start, grid.size), **blended, **more}

        vae = self.preset.make_vae(self.generator.dtype)
        static = {"vae": vae, "levels": self.preset.colour_levels, "stop": None}
        return self._through(frames, Half("decode", decode_tiles, static, tiles), Frame.take_image)

    def _detail(self, frame: Frame) -> float:
        """The share of stage 2's detail in an image's results."""
        detail = self.wanted.options.detail
        return self.preset.detail(frame.upscale) if detail is None else detail

    def _latent_tile(self, z: np.ndarray, start: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        f = self.preset.vae.downsample
        top, left = start // f
        return z[top : top + size[0] // f, left : left + size[1] // f]

    def _through(self, frames: list[Frame], half: Half, take: Callable[..., Any]) -> list[Any]:
        """Take images through one half of the autoencoder: measure, then compute."""
        norms = self._norms(frames, half)

        def computed(cut: bool) -> Iterator[Any]:
            chosen = (frame for frame in frames if bool(norms[frame.position]) == cut)
            every = (tile for frame in chosen for tile in half.tiles(frame, repeat(norms[frame.position])))
            return self._stream(half.function, half.stage, frames, every, half.static)

        # Images in one tile have no statistics: their tiles are not of the kind that others could share a batch with.
        found = {cut: computed(cut) for cut in (False, True)}
        return [take(frame, found[bool(norms[frame.position])]) for frame in frames]

    def _norms(self, frames: list[Frame], half: Half) -> dict[int, dict[str, Any]]:
        """The images' statistics, {"norms": ...}, by position; nothing for images in one tile."""
        cut = [frame for frame in frames if len(frame.grid(half.stage).starts) > 1]
        nothing: dict[int, dict[str, Any]] = {frame.position: {} for frame in frames}
        if not self.shares_norms or not cut:
            return nothing
        norms = self._measured(cut, half, None, nothing)
        count = len(norms[cut[0].position])
        for number, stop in enumerate(stops(count)[1:], start=1):
            exact = {"exact": np.int32(number)}
            known = {at: {"norms": first_norms(found, stop), **exact} for at, found in norms.items()}
            for at, found in self._measured(cut, half, stop, known).items():
                norms[at] = norms[at] | found
        return nothing | {at: {"norms": found} for at, found in norms.items()}

    def _measured(
        self, frames: list[Frame], half: Half, stop: int | None, known: dict[int, Any]
    ) -> dict[int, Norms]:
        """One pass: the statistics of the first `stop` normalisations, by position."""

        def tiles(frame: Frame) -> Iterator[dict[str, Any]]:
            owned = frame.owned(half.stage)
            return half.tiles(frame, ({"owned": part, **known[frame.position]} for part in owned))

        every = (tile for frame in frames for tile in tiles(frame))
        found = self._stream(half.function, half.stage, frames, every, half.static | {"stop": stop})
        counts = [len(frame.grid(half.stage).starts) for frame in frames]
        parts = [list(islice(found, count)) for count in counts]
        return {frame.position: frame.merged(half.stage, part) for frame, part in zip(frames, parts)}

    def _maps(self, frames: list[Frame]) -> list[np.ndarray]:
        def tiles(frame: Frame) -> Iterator[dict[str, Any]]:
            grid = frame.grid("encode")
            for start in grid.starts:
                yield {"image": frame.clean_tile(start, grid.size), "mask": frame.mask_tile(start, grid.size)}

        every = (tile for frame in frames for tile in tiles(frame))
        loss = self.wanted.options.guidance_loss
        found = self._stream(weigh_tiles, "encode", frames, every, {"loss": loss})
        return [frame.take_map(found) for frame in frames]

    def _stream(
        self, function: Any, stage: str, frames: list[Frame], tiles: Iterable[Any], static: dict[str, Any]
    ) -> Iterator[Any]:
        """The results of a stage's program for tiles, in order."""
        weights = self.weights(function)

        def call(stacked: Any, used: np.ndarray) -> Any:
            placed = self.programs.place((stacked, used), axis=1)
            return self.programs(function, *weights, *placed, **static)

        return stream(call, tiles, staged(self.batch(stage, frames[0].shape)))

    def _sample(self, frames: list[Frame], variant: int) -> list[np.ndarray]:
        """Latents of the results, of the padded images."""
        size = self.pack_size(frames[0])
        filled = frames + [frames[-1]] * (size - len(frames))
        given = self._conditioned(frames, filled)
        if variant == self.wanted.count - 1:
            for frame in frames:
                frame.latent, frame.weight, frame.hint, frame.last = None, None, None, True
        keys = image_keys(self.wanted.options.seed, [frame.request.index for frame in filled], variant)
        denoiser, arguments = self.steered(given, keys)
        arguments = self.placed(arguments, given.layout is None)
        z = np.asarray(self.programs(sample, *arguments, denoiser=denoiser))
        f = self.preset.vae.downsample
        sides = [[side // f for side in frame.sides.padded] for frame in frames]
        return [canvas[:height, :width] for canvas, (height, width) in zip(z, sides)]

    def steered(self, given: Conditioned, keys: jax.Array) -> tuple[Any, tuple[Any, ...]]:
        """The denoiser, and the other arguments of `sample`."""
        whole = given.layout is None
        denoiser, *arguments = self.generator.steered(
            given,
            self.wanted.options,
            keys,
            self.context,
            remat=self.plan.remat,
            spread=None if whole else self.programs.sharding(0),
        )
        return denoiser, tuple(arguments)

    def placed(self, arguments: tuple[Any, ...], whole: bool) -> tuple[Any, ...]:
        """Put the arguments of `sample` on the devices: each has its images, or its tiles of all of them."""
        (inputs, x, steps, noise), place, axis = arguments, self.programs.place, 0 if whole else None
        guidance = inputs.guidance and inputs.guidance._replace(
            target=place(inputs.guidance.target, axis),
            weight=place(inputs.guidance.weight, axis),
            repeats=place(inputs.guidance.repeats),
            tiles=place(inputs.guidance.tiles),
        )
        cond, uncond = place((inputs.cond, inputs.uncond), axis)
        inputs = inputs._replace(cond=cond, uncond=uncond, guidance=guidance)
        return inputs, place(x, axis), place(steps), place(noise, axis)

    def _conditioned(self, frames: list[Frame], filled: list[Frame]) -> Conditioned:
        """What steers the sampling of a pack."""
        options, f = self.wanted.options, self.preset.vae.downsample
        height, width = filled[0].shape.canvas
        sides = (height // f, width // f)
        # On the device once, though the network and guidance read it.
        latent = jnp.asarray(stacked([frame.latent for frame in filled], sides))
        encoded = self.generator.encoder is not None
        hint = stacked([frame.hint for frame in filled], sides) if encoded else None
        layout = self._layout(frames, len(filled), sides)
        if options.guidance_space == "latent" or not options.guidance_scale:
            weight = stacked([frame.weight for frame in filled], sides)
            return Conditioned(latent, weight, None, layout, hint)
        # Its borders are repeated to the canvas's: beside zeros they would pass for edges, which guidance spares.
        targets = [2.0 * padded_whole(frame, frame.clean_tile) - 1.0 for frame in filled]
        target = stacked(targets, (height, width), "edge")
        mask = stacked([padded_whole(frame, frame.mask_tile) for frame in filled], (height, width))
        weight = guidance_weight(options.guidance_loss, "rgb", target, latent, mask)
        return Conditioned(latent, weight, target, layout, hint)

    def _layout(self, frames: list[Frame], canvases: int, sides: tuple[int, int]) -> Layout | None:
        """The tiles of a pack; None if every image is one."""
        count = tiles_on_canvas(frames[0].shape, self.plan)
        if count == 1:
            return None
        f = self.preset.vae.downsample
        grids = [frame.grid("sample").scaled(1, f) for frame in frames]
        return make_layout(grids, sides, canvases * count, self.batch("sample", frames[0].shape), f, canvases)


def staged(batch: int) -> tuple[int, int]:
    """Batches that one call of a program takes, and their size."""
    return max(1, STAGED // batch), batch
