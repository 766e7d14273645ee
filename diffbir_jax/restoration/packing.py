"""Packs: images of one shape that go through the stages together, whatever files they come from."""

import functools
import itertools
from collections.abc import Iterable, Iterator

import jax

from diffbir_jax.console.errors import UserError
from diffbir_jax.imaging.checks import check_layout
from diffbir_jax.restoration import autoencoder, diffusion, known, stage1
from diffbir_jax.restoration.compiled import Programs
from diffbir_jax.restoration.executor import Executor
from diffbir_jax.restoration.generator import Generator
from diffbir_jax.restoration.geometry import Shape
from diffbir_jax.restoration.image import Frame, Request
from diffbir_jax.restoration.plan import Plan
from diffbir_jax.restoration.results import NOTHING, Outcome, Restored, Wanted

# What images of one pack share: their shape, and whether their noise is drawn.
Kind = tuple[Shape, bool]
# Compute an incomplete pack once this many output pixels are queued.
WAITING = 2**26


class Packer:
    """Collects images that share programs, and takes each pack through the stages."""

    def __init__(self, generator: Generator, programs: Programs, plan: Plan, wanted: Wanted):
        """Take the networks, what compiles them, how images are cut and what is wanted.

        Raises:
            ValueError: the networks cannot be cut as the plan says, see `check_plan`.
        """
        self.executor, self.wanted = Executor(generator, programs, plan, wanted), wanted

    def outcomes(self, requests: Iterable[Request], upscale: float) -> Iterator[Outcome]:
        """Yield an outcome per request, pack by pack."""
        waiting: dict[Kind, list[Frame]] = {}
        # Only frames hold the images: they release each array after its last use.
        frames = map(functools.partial(self._frame, upscale), itertools.count(), requests)
        while frame := next(frames, None):
            if isinstance(frame, Outcome):
                yield frame
                continue
            waiting.setdefault((frame.shape, frame.request.noise is None), []).append(frame)
            del frame
            while full := self._full(waiting):
                yield from self._restored(waiting.pop(full))
        while waiting:
            yield from self._restored(waiting.popitem()[1])

    def _frame(self, upscale: float, position: int, request: Request) -> Frame | Outcome:
        executor = self.executor
        try:
            frame = self._known(position, request, upscale)
            diffusion.check_noise(executor, frame)
            return frame
        except (UserError, MemoryError) as error:
            return Outcome(position, error=error)

    def _known(self, position: int, request: Request, upscale: float) -> Frame:
        """The frame of a request, with what it says by the operator of the options, if there is one."""
        executor, options = self.executor, self.wanted.options
        preset, spec = executor.preset, options.known
        given = request
        if spec is not None and not self.wanted.stage1_only:
            check_layout(request.image, (3,), "image")
            request = request._replace(image=known.without_holes(request.image, options))
        frame = Frame(position, request, upscale, preset, executor.plan, executor.generator.dtype)
        if spec is not None and not self.wanted.stage1_only:
            known.check_sides(spec, given.image.shape, frame.sides, preset)
            sigma = executor.generator.last_noise(options)
            frame.know(known.knowledge(given.image, options, frame.sides.output, sigma))
        return frame

    def _full(self, waiting: dict[Kind, list[Frame]]) -> Kind | None:
        """The key of a pack to compute now: a full one or, when much is waiting, the largest; else None."""
        for key, frames in waiting.items():
            if len(frames) == self.executor.pack_size(frames[0].shape):
                return key
        held = {key: sum(f.upscaled.size // 3 for f in frames) for key, frames in waiting.items()}
        return max(held, key=lambda key: held[key]) if sum(held.values()) > WAITING else None

    def _restored(self, frames: list[Frame]) -> list[Outcome]:
        """Take a pack through all stages."""
        try:
            results = self.results(frames)
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            # Without memory only these images fail; any other error of JAX is a bug.
            if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return [Outcome(frame.position, error=error) for frame in frames]
        return [
            Outcome(frame.position, error=frame.error)
            if frame.error
            else Outcome(frame.position, tuple(variants))
            for frame, variants in zip(frames, results)
        ]

    def results(self, frames: list[Frame]) -> list[list[Restored]]:
        """Take images of one shape through all stages; the variants of each."""
        upscaled = [frame.upscaled if self.wanted.keep else NOTHING for frame in frames]
        stage1.clean(self.executor, frames)
        if not self.executor.needs_stage2(frame.upscale for frame in frames):
            images = [frame.shown_clean() for frame in frames]
            return [[Restored(image, image, up)] * self.wanted.count for image, up in zip(images, upscaled)]
        clean = [frame.shown_clean() if self.wanted.keep else NOTHING for frame in frames]
        draws = self.executor.preset.one_step is not None
        autoencoder.encode(self.executor, frames)
        none = [None] * len(frames)
        maps = autoencoder.maps(self.executor, frames) if self.wanted.with_fidelity else none
        results: list[list[Restored]] = [[] for _ in frames]
        for variant in range(self.wanted.count):
            if variant and draws:  # results differ by what the encoder draws
                autoencoder.encode(self.executor, frames, variant)
            latents = diffusion.generate(self.executor, frames, variant)
            images = autoencoder.decode(self.executor, frames, latents)
            for variants, image, stage_1, up, shown in zip(results, images, clean, upscaled, maps):
                variants.append(Restored(image, stage_1, up, shown))
        return results
