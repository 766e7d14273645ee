"""Choose sizes of tiles and batches that fit the memory, by the compiler's analysis of the programs."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from jax import Array
from jax.typing import DTypeLike

from diffbir_jax.console.errors import UserError
from diffbir_jax.models.platform import target_platform
from diffbir_jax.restoration import autoencoder, diffusion, stage1
from diffbir_jax.restoration.candidates import candidates
from diffbir_jax.restoration.compiled import KEPT, Programs
from diffbir_jax.restoration.executor import Call, Executor
from diffbir_jax.restoration.generator import Generator
from diffbir_jax.restoration.geometry import Shape, Sides, measure
from diffbir_jax.restoration.packing import WAITING
from diffbir_jax.restoration.plan import Plan
from diffbir_jax.restoration.results import STAGE_NAMES, Wanted

# The share of the free memory that plans may use: allocators and other threads need some.
USABLE = 0.9
# Memory of a program on CPUs without its arrays; measured.
PROGRAM = 15 * 2**20
# Memory that a process on CPUs gains when it first runs its programs, without their arrays; measured.
RUNTIME = 100 * 2**20
# Most plans whose programs are compiled for one choice.
TRIES = 5
# The programs of a stage that take most memory, see `abstract_calls`: others end after some of the same layers.
MAIN = 2


# Height and width; those of inputs and of their results.
Size = tuple[int, int]
Sizes = Sequence[tuple[Size, Size]]


class PlanError(UserError):
    """No plan fits the memory; the message says what would."""


class Forecast(NamedTuple):
    """A plan, and the memory that it will take.

    Attributes:
        executor: carries out the plan.
        shape: of the images that take most.
        stages: bytes of each stage's program on one device: what it reads (without parameters), returns, and holds;
            empty if nothing was compiled, since the images alone take more than there is.
        base: bytes that are held all the time: parameters and, on CPUs, the memory of the process before the run.
        host: bytes of the images on the host.
        peak: largest number of bytes, of the process on CPUs, else of a device.
        budget: bytes that are available.
    """

    executor: Executor
    shape: Shape
    stages: dict[str, int]
    base: int
    host: int
    peak: int
    budget: int

    @property
    def plan(self) -> Plan:
        """The plan."""
        return self.executor.plan

    def sentence(self) -> str:
        """The plan in a line."""
        (height, width), largest = (
            self.shape.sample,
            f"{self.peak / 2**30:.1f} of {self.budget / 2**30:.1f} GiB",
        )
        return f"tiles of {width}x{height} pixels at most, up to {largest} of memory"

    def lines(self) -> list[str]:
        """The plan as a table."""
        rows = [f"{'stage':8} {'tile':>11} {'overlap':>8} {'batch':>6} {'GiB':>6}"]
        for name, taken in self.stages.items():
            tile, stage = getattr(self.shape, name), getattr(self.plan, name)
            size, batch = f"{tile[1]}x{tile[0]}", self.plan.batch_of(name, tile)
            rows.append(f"{name:8} {size:>11} {stage.overlap:8} {batch:6} {taken / 2**30:6.2f}")
        where = "process" if target_platform() == "cpu" else "device"
        rows.append(
            f"peak of the {where}: {self.peak / 2**30:.2f} GiB predicted, {self.budget / 2**30:.2f} GiB there"
        )
        return rows


def make_plan(
    generator: Generator,
    programs: Programs,
    images: Sizes,
    wanted: Wanted,
    memory: int | None = None,
    norms: Literal["image", "tile"] = "image",
    beside: int = 0,
    look: Callable[[Executor], None] | None = None,
) -> Forecast:
    """Choose the fastest plan that fits.

    Args:
        generator: the networks, loaded.
        programs: what compiles; programs that are analysed stay in it for the run.
        images: (height, width) of each input and of its output, in pixels.
        wanted: what is to be made of them.
        memory: bytes that may be taken; by default most of what there is.
        norms: see `Plan`.
        beside: bytes that the caller takes for other things meanwhile.
        look: called with each plan that is tried, before its programs are compiled.

    Raises:
        PlanError: none fits.
    """
    budget = available() if memory is None else memory
    plans = candidates(generator.preset, wanted.options, programs.devices, len(images) > 1)
    left = [Executor(generator, programs, replace(plan, norms=norms), wanted) for plan in plans]
    tried: list[Forecast] = []
    while left:
        executor, *left = left
        if look is not None:
            look(executor)
        found = forecast(executor, images, budget, beside)
        if found.peak <= budget:
            return found
        tried.append(found)
        left = _promising(left, images, budget, beside, tried)
    raise _refusal(tried)


def _refusal(tried: Sequence[Forecast]) -> PlanError:
    """The error after forecasts that all do not fit."""
    measured = [found for found in tried if found.stages]
    least = min(measured or tried, key=lambda found: found.peak)
    more = "" if least.stages else " or more"
    return PlanError(
        f"{least.budget / 2**30:.2f} GiB of memory do not suffice: the smallest plan, tiles of "
        f"{least.plan.sample.tile} pixels, takes at least {least.peak / 2**30:.2f} GiB; give `memory_gb` "
        f"{least.peak / 2**30 + 0.05:.1f}{more} if there is so much, else a lower `upscale` or `precision` bf16"
    )


def _promising(
    left: list[Executor], images: Sizes, budget: int, beside: int, tried: Sequence[Forecast]
) -> list[Executor]:
    """The plans that are still worth compiling: from the first that may fit on, and the smallest in any case."""
    measured = [found for found in tried if found.stages]
    for place, executor in enumerate(left[:-1] if len(measured) < TRIES - 1 else ()):
        needs = _needs(executor, images, beside)
        likely = {name: _likely(executor, name, needs.shape, measured) for name in needs.host}
        if needs.peak(likely) <= budget:
            return left[place:]
    return left[-1:]


def _likely(executor: Executor, stage: str, shape: Shape, measured: Sequence[Forecast]) -> float:
    """Bytes of a stage's program by those of other plans; recomputation changes only that of sampling."""
    same = [f for f in measured if stage != "sample" or f.plan.remat == executor.plan.remat]
    known = {_seen(found.executor, stage, found.shape): found.stages[stage] for found in same}
    return on_line(known, _seen(executor, stage, shape))


def _seen(executor: Executor, stage: str, shape: Shape) -> int:
    """Pixels that a stage sees at once."""
    return executor.batch(stage, shape) * math.prod(getattr(shape, stage))


def on_line(known: Mapping[int, int], at: int) -> float:
    """Memory for a number of pixels, from that for others: on the line through the nearest two.

    From a single one half of what is proportional: to leave out a plan that fits is worse than to compile one that
    does not. From none 0.
    """
    if at in known or not known:
        return known.get(at, 0)
    near, *others = sorted(known, key=lambda pixels: abs(pixels - at))
    if not others:
        return 0.5 * known[near] * at / near
    return known[near] + (known[others[0]] - known[near]) * (at - near) / (others[0] - near)


class _Needs(NamedTuple):
    """What images take beside the programs.

    Attributes:
        shape: of the images that take most.
        base: see `Forecast`.
        host: bytes of the images in this process, by the stages that run.
        more: bytes on CPUs for what runs programs and for the other images of a run.
        apart: whether images and programs are in different memory.
    """

    shape: Shape
    base: int
    host: dict[str, int]
    more: int
    apart: bool

    def peak(self, stages: Mapping[str, float]) -> int:
        """Largest number of bytes at once, for those of the stages' programs; one that is not given takes none."""
        each = (stages.get(name, 0) + (0 if self.apart else self.host[name]) for name in self.host)
        return int(self.base + self.more + max(each, default=0))


def _needs(executor: Executor, images: Sizes, beside: int) -> _Needs:
    """What images take under the executor's plan, with `beside` for other things."""
    measured = {measure(*image, executor.preset, executor.plan) for image in images}
    sides, shape = max(measured, key=lambda found: _weight(*found))
    host = _host(executor, sides, shape)
    host = {name: host[name] for name in stages_of(executor, images)}
    if target_platform() != "cpu":
        return _Needs(shape, size_of(jax.tree.leaves(executor.params)) + beside, host, 0, apart=True)
    others = _company([found[0] for found in measured], len({found[1] for found in measured}), len(images))
    return _Needs(shape, resident() + beside, host, RUNTIME + others, apart=False)


def forecast(executor: Executor, images: Sizes, budget: int, beside: int = 0) -> Forecast:
    """The memory of the most expensive images under the executor's plan, with `beside` for other things.

    Nothing is compiled if the images alone take more than the budget. If the programs that take most memory do so, the
    others are not compiled.
    """
    needs = _needs(executor, images, beside)
    stages: dict[str, int] = {}
    for most in (MAIN, None):
        if needs.peak(stages) <= budget:
            stages = {name: analyse(executor, name, needs.shape, most) for name in needs.host}
    host = max(needs.host.values(), default=0)
    return Forecast(executor, needs.shape, stages, needs.base, host, needs.peak(stages), budget)


def _company(sides: Sequence[Sides], shapes: int, images: int) -> int:
    """Extra memory of a run over many images: cached programs and queued images (bytes).

    Images wait in three bounded queues: read ahead, for others of their shape, and to be written.
    """
    if images == 1:
        return 0
    largest = max(max(_area(each.work), _area(each.output)) for each in sides)
    waiting = min(3 * max(WAITING, largest), images * largest)
    # Four programs for each further shape, and three bytes for each waiting pixel.
    return min(KEPT, 4 * (shapes - 1)) * PROGRAM + 3 * waiting


def compile_all(executor: Executor, images: Sizes) -> Iterator[Shape]:
    """Compile all programs that images need, shape by shape; `images` as in `make_plan`."""
    shapes = {measure(*image, executor.preset, executor.plan)[1] for image in images}
    for shape in sorted(shapes):
        for name in stages_of(executor, images):
            analyse(executor, name, shape)
        yield shape


def programs_of(executor: Executor, images: Sizes) -> dict[str, int]:
    """How many programs images need, by the names of stages; `images` as in `make_plan`.

    Nothing is compiled. Which images share a program follows from their shapes, so there is a trace per stage at most.
    """
    shapes = {measure(*image, executor.preset, executor.plan)[1] for image in images}
    return {STAGE_NAMES[stage]: _programs(executor, stage, shapes) for stage in stages_of(executor, images)}


def _programs(executor: Executor, stage: str, shapes: Collection[Shape]) -> int:
    """How many programs a stage has for images of some shapes."""
    if stage in ("rm", "sample"):
        return len({(shape.rm,) if stage == "rm" else (shape.sample, shape.canvas) for shape in shapes})
    # Tiles of a larger image share its statistics, which further programs measure: as many for tiles of any size.
    cut = {getattr(shape, stage): shape for shape in shapes if getattr(shape, stage) != shape.canvas}
    whole = {shape.canvas for shape in shapes if getattr(shape, stage) == shape.canvas}
    each = len(abstract_calls(executor, stage, next(iter(cut.values())))) if cut else 0
    # Where these are not measured, tiles and whole images run one program.
    return len(whole | {*cut}) if each == 1 else len(whole) + each * len(cut)


def resident() -> int:
    """Bytes of memory that this process has."""
    return psutil.Process().memory_info().rss


def available() -> int:
    """Bytes that a run may use: of the device or, on CPUs, of the machine, including the memory of this process.

    Raises:
        ValueError: programs are made for a platform that this process does not have.
    """
    if target_platform() != jax.default_backend():
        raise ValueError(
            f"plans are for a {target_platform()} and this process runs on a {jax.default_backend()}: give `memory`, "
            "the bytes that the device has"
        )
    stats = jax.local_devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if stats and "bytes_limit" in stats:
        return int(USABLE * stats["bytes_limit"])
    free = psutil.virtual_memory().available
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdecimal():
        free = min(free, int(text) - resident())
    return int(USABLE * free) + resident()


def analyse(executor: Executor, stage: str, shape: Shape, most: int | None = None) -> int:
    """Memory of a stage's largest program for images of a shape: bytes on one device, without parameters.

    The programs are compiled for that and kept for the run; with `most` only so many, in the order of `abstract_calls`.
    """
    taken = []
    calls = abstract_calls(executor, stage, shape)[:most]
    params = {id(leaf) for leaf in jax.tree.leaves(executor.params)}
    executor.programs.doing = STAGE_NAMES[stage]
    for function, arguments, static in calls:
        found = executor.programs.memory(function, *arguments, **static)
        read = size_of(leaf for leaf in jax.tree.leaves(arguments) if id(leaf) not in params)
        taken.append(read // executor.programs.devices + found.results + found.temporary)
    return max(taken)


def abstract_calls(executor: Executor, stage: str, shape: Shape) -> list[Call]:
    """The programs that a stage needs for images of a shape, those that take most memory first."""
    if stage == "rm":
        return stage1.calls(executor, shape)
    if stage == "sample":
        return diffusion.calls(executor, shape)
    return autoencoder.calls(executor, "encode" if stage == "encode" else "decode", shape)


def stages_of(executor: Executor, images: Sizes) -> tuple[str, ...]:
    """The stages that run; small images may be rounded to a little more than their upscale."""
    first = () if executor.preset.rm is None else ("rm",)
    upscales = (max(out / side for side, out in zip(*image)) for image in images)
    return (*first, "encode", "sample", "decode") if executor.needs_stage2(upscales) else first


def _weight(sides: Sides, shape: Shape) -> tuple[int, int]:
    """A sort key: the larger it is, the more memory an image needs."""
    return shape.sample[0] * shape.sample[1], sides.work[0] * sides.work[1]


def size_of(leaves: Iterable[Array | np.ndarray | jax.ShapeDtypeStruct]) -> int:
    """Bytes of arrays, or of abstract ones, which do not tell them."""
    return sum(math.prod(leaf.shape) * np.dtype(_plain(leaf.dtype)).itemsize for leaf in leaves)


def _plain(dtype: DTypeLike) -> DTypeLike:
    return np.uint64 if jnp.issubdtype(dtype, jax.dtypes.prng_key) else dtype


def _host(executor: Executor, sides: Sides, shape: Shape) -> dict[str, int]:
    """Bytes of images on the host while each stage runs: of a pack, and what the stage makes of it."""
    preset, wanted = executor.preset, executor.wanted
    pixels, final, depth = _area(sides.work), _area(sides.output), 1
    images = executor.pack_size(shape)
    config, kept = preset.vae, 6 * final * depth if wanted.keep else 0
    # Bytes per pixel of RGB: 12 in float32, 6 in float16 (of tiled images), 3 in 8 bits.
    enlarged = sides.lq if preset.rm is None else tuple(side * preset.rm.scale for side in sides.lq)
    blended = 12 if shape.rm == sides.lq_padded else 6
    clean = (12 if shape.sample == shape.canvas or enlarged != sides.work else blended) * pixels
    # What is resized is there as well, and one channel of it as float32.
    before = (blended + 4) * _area(enlarged) if enlarged != sides.work else 0
    hint = 0 if executor.generator.encoder is None else config.embed_dim
    start = config.embed_dim if executor.starts_from_input else 0
    latents = 4 * (config.embed_dim + 1 + hint + start) * pixels // config.downsample**2
    lq, result = 3 * _area(sides.lq) * depth, 3 * final * depth
    after = 0 if sides.work == sides.output else 4 * pixels + 12 * final
    whole = shape.sample == shape.canvas
    # What the input says by a known degradation: coefficients, weights and singular values in float32.
    says = 0 if wanted.options.operator is None else 24 * pixels
    held = {
        "rm": lq + clean + (result + max(before, after) if wanted.stage1_only else before),
        "encode": clean + latents + (3 * depth * pixels if start else 0),
        "sample": clean + latents + says,
        "decode": clean + 2 * latents + (result if whole or after else 0) + after + says,
    }
    return {name: images * (taken + kept + says) for name, taken in held.items()}


def _area(sides: Sequence[int]) -> int:
    return sides[0] * sides[1]
