"""What every stage needs to run: networks, compiled programs, the plan, and what the caller wants."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax.stages import Wrapped

from diffbir_jax.console.errors import UserError
from diffbir_jax.files.trees import Params, Tree
from diffbir_jax.models.presets import Preset
from diffbir_jax.restoration.compiled import Programs
from diffbir_jax.restoration.generator import Context, Generator
from diffbir_jax.restoration.geometry import Shape, check_plan, tiles_on_canvas
from diffbir_jax.restoration.plan import Plan
from diffbir_jax.restoration.results import STAGE_NAMES, Progress, Wanted
from diffbir_jax.restoration.tile_programs import stream

# Tiles per call of a program if a batch has fewer, since each call has a fixed cost.
STAGED = 4
# A program as function, arguments (parameters and abstract arrays) and static arguments.
Call = tuple[Wrapped, tuple[Tree, ...], dict[str, object]]


@dataclass(frozen=True)
class Executor:
    """Runs the programs of the stages.

    Attributes:
        generator: the networks.
        programs: compiles the programs and keeps them.
        plan: how images are cut.
        wanted: what the caller wants of every image.

    Raises:
        ValueError: the networks cannot be cut as the plan says, see `check_plan`.
    """

    generator: Generator
    programs: Programs
    plan: Plan
    wanted: Wanted

    def __post_init__(self) -> None:
        check_plan(self.plan, self.preset)

    @property
    def preset(self) -> Preset:
        """Sizes of the networks."""
        return self.generator.preset

    @property
    def params(self) -> dict[str, Params]:
        """Parameters of the networks."""
        return self.generator.params

    @functools.cached_property
    def context(self) -> Context | None:
        """Embeddings of the prompts; None for networks that read no text."""
        options = self.wanted.options
        if self.wanted.context is not None or self.preset.text is None:
            return self.wanted.context
        return self.generator.embed(options.pos_prompt), self.generator.embed(options.neg_prompt)

    def contexts(self, captions: Sequence[str]) -> Context | None:
        """Embeddings of the prompts of a batch, a row per image; one row for all if none has a caption."""
        if self.context is None or not any(captions):
            return self.context
        if self.wanted.context is not None:
            raise UserError("captions and `context` are both given; leave one of them out")
        prompt = self.wanted.options.pos_prompt
        texts = [", ".join(filter(None, (caption, prompt))) for caption in captions]
        return jnp.concatenate([self.generator.embed(text) for text in texts]), self.context[1]

    def detail(self, upscale: float) -> float:
        """The share of stage 2's detail in the results of images at an upscale."""
        detail = self.wanted.options.detail
        return self.preset.detail(upscale) if detail is None else detail

    def texture(self, upscale: float) -> float:
        """The share of the input's texture in stage-1 images: there is more of it where stage 2 adds less detail."""
        detail = 0.0 if self.wanted.stage1_only else self.detail(upscale)
        return self.wanted.options.texture * (1.0 - detail)

    def needs_stage2(self, upscales: Iterable[float]) -> bool:
        """Whether results at any of these upscales show more than stage 1."""
        shown = self.wanted.with_fidelity or any(map(self.detail, upscales))
        return not self.wanted.stage1_only and shown

    @property
    def starts_from_input(self) -> bool:
        """Whether sampling starts from the latents of the inputs."""
        return self.wanted.options.start_point == "input"

    @property
    def degrades(self) -> bool:
        """Whether the networks depend on an estimate of each image's degradation."""
        return self.preset.one_step is not None and self.preset.one_step.modulation is not None

    @property
    def blends(self) -> bool:
        """Whether results may have only a share of the detail; the decoder then has another program."""
        detail = self.wanted.options.detail
        return self.preset.all_detail_from > 1.0 if detail is None else detail != 1.0

    def batch(self, stage: str, shape: Shape) -> int:
        """How many tiles of images of a shape a stage sees at once."""
        return self.plan.batch_of(stage, getattr(shape, stage))

    def pack_size(self, shape: Shape) -> int:
        """How many images of a shape go together: a batch full of tiles, if one image does not fill it."""
        return max(1, self.batch("sample", shape) // tiles_on_canvas(shape, self.plan))

    def staged(self, stage: str, shape: Shape) -> tuple[int, int]:
        """Batches per call of a stage's program, and their size."""
        batch = self.batch(stage, shape)
        return max(1, STAGED // batch), batch

    def stream(
        self,
        call: Wrapped,
        stage: str,
        shape: Shape,
        tiles: Iterable[Tree],
        params: tuple[Params, ...],
        total: int | None,
        **static: object,
    ) -> Iterator[Tree]:
        """Take tiles through a program, in order, and tell the caller how far that is.

        Args:
            call: the program's function, called as call(*params, tiles, used) with the static arguments.
            stage: name of the stage, for its sizes.
            shape: of the tiles' images.
            tiles: trees of numpy arrays.
            params: what the program takes before the tiles.
            total: number of tiles; None: the caller hears nothing.
            static: its static arguments.

        Returns:
            the program's results, one tree of numpy arrays per tile.
        """

        def run(stacked: Tree, used: np.ndarray) -> Tree:
            placed = self.programs.place((stacked, used), axis=1)
            self.programs.doing = STAGE_NAMES[stage]
            return self.programs(call, *params, *placed, **static)

        results = stream(run, tiles, self.staged(stage, shape))
        return results if total is None else self._told(results, stage, shape, total)

    def _told(self, results: Iterator[Tree], stage: str, shape: Shape, total: int) -> Iterator[Tree]:
        self.tell(stage, shape, 0, total)
        for done, result in enumerate(results, start=1):
            self.tell(stage, shape, done, total)
            yield result

    def tell(self, stage: str, shape: Shape, done: int, total: int) -> None:
        """Tell the caller how many of a stage's tiles are computed."""
        if self.wanted.listen is not None:
            height, width = getattr(shape, stage)
            self.wanted.listen(Progress(stage, done, total, height * width))

    def abstract_call(
        self, call: Wrapped, params: tuple[Params, ...], tiles: Tree, used: Tree, **static: object
    ) -> Call:
        """The call that `stream` makes, with abstract arrays."""
        return call, (*params, *self.programs.place((tiles, used), axis=1)), static
