"""Choose sizes of tiles and batches that fit the memory, by the compiler's analysis of the programs."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from jax.typing import DTypeLike

from diffbir_jax.console.errors import UserError
from diffbir_jax.files.trees import Tree
from diffbir_jax.models.one_step import OneStep
from diffbir_jax.models.presets import Preset
from diffbir_jax.restoration import autoencoder, diffusion, stage1
from diffbir_jax.restoration.compiled import KEPT, Programs
from diffbir_jax.restoration.executor import Call, Executor
from diffbir_jax.restoration.generator import Generator
from diffbir_jax.restoration.geometry import Shape, Sides, measure
from diffbir_jax.restoration.packing import WAITING
from diffbir_jax.restoration.plan import BATCH, Plan, StagePlan
from diffbir_jax.restoration.results import STAGE_NAMES, Wanted
from diffbir_jax.sampling.options import Options

# Tile sizes to try, as shares of the preset's tile.
SHARES = (1.0, 0.75, 0.5, 0.375, 0.25)
# Most tiles in a batch per device, and pixels of a batch that keep a device busy (docs/large.md has measurements).
MOST, PIXELS = {"cpu": 4}, {"cpu": 2**17}
# The share of the free memory that plans may use: allocators and other threads need some.
USABLE = 0.9
# Memory of a program on CPUs without its arrays; measured.
PROGRAM = 15 * 2**20
# Memory that a process on CPUs gains when it first runs its programs, without their arrays; measured.
RUNTIME = 100 * 2**20


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
        stages: bytes of each stage's program on one device: what it reads (without parameters), returns, and holds.
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
        where = "process" if jax.default_backend() == "cpu" else "device"
        rows.append(
            f"peak of the {where}: {self.peak / 2**30:.2f} GiB predicted, {self.budget / 2**30:.2f} GiB there"
        )
        return rows


def default_plan(preset: Preset, options: Options, devices: int = 1) -> Plan:
    """The plan that ignores the memory: tiles of the preset's or the options' size, one per device."""
    if preset.one_step is not None:
        return _one_step_plan(preset.one_step, options, preset.one_step.vae_tile, devices)
    tile, stride = options.tiling or (preset.tile, preset.tile // 2)
    return _plan(preset, tile, stride, min(tile, preset.tile), devices)


def _one_step_plan(one_step: OneStep, options: Options, side: int, devices: int) -> Plan:
    """A plan with the published tiles, except that those of the autoencoder have `side`."""
    tile, stride = options.tiling or (one_step.tile, one_step.tile - one_step.overlap)
    # A restorer with tiles of one size in all stages keeps it so.
    side = tile if one_step.own_norms else side
    overlap = tile - stride if one_step.own_norms else min(one_step.vae_overlap, side // 8)
    vae, pixels = StagePlan(side, overlap, devices), PIXELS.get(jax.default_backend(), 2**20)
    return Plan(
        StagePlan(1, 0, devices),
        vae,
        StagePlan(tile, tile - stride, devices),
        vae,
        devices=devices,
        pixels=pixels,
    )


def _plan(preset: Preset, tile: int, stride: int, side: int, devices: int) -> Plan:
    """A plan for diffusion tiles `stride` apart, and tiles of `side` in the other stages."""
    scale, multiple = (1, 1) if preset.rm is None else (preset.rm.scale, preset.rm.multiple)
    vae = StagePlan(side, side // 8, devices)
    lq = max(multiple, side // scale // multiple * multiple)
    rm = StagePlan(lq, lq // 8, devices)
    pixels = PIXELS.get(jax.default_backend(), 2**20)
    return Plan(rm, vae, StagePlan(tile, tile - stride, devices), vae, devices=devices, pixels=pixels)


def candidates(preset: Preset, options: Options, devices: int, many: bool) -> Iterator[Plan]:
    """Plans from the fastest to the one that takes least memory; only `many` images try larger batches."""
    for share in SHARES:
        if preset.one_step is not None:
            plan = _one_step_plan(preset.one_step, options, int(preset.one_step.vae_tile * share), devices)
            if share < 1.0 and preset.one_step.own_norms:
                return
        else:
            side = int(preset.tile * share) // 64 * 64
            if side < max(64, preset.min_side):
                return
            tile, stride = options.tiling or (side, side // 2)
            plan = _plan(preset, tile, stride, min(tile, side), devices)
        guided = bool(options.guidance_scale) and options.guidance_space == "rgb"
        for remat in (False, True) if guided else (True,):
            if many and share == SHARES[0]:
                yield replace(plan.with_batch(MOST.get(jax.default_backend(), BATCH) * devices), remat=remat)
            yield replace(plan, remat=remat)


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
    least: Forecast | None = None
    for plan in candidates(generator.preset, wanted.options, programs.devices, len(images) > 1):
        if least is not None and _hopeless(least, plan):
            continue
        executor = Executor(generator, programs, replace(plan, norms=norms), wanted)
        if look is not None:
            look(executor)
        found = forecast(executor, images, budget, beside)
        if found.peak <= budget:
            return found
        least = found if least is None or found.peak < least.peak else least
    assert least is not None
    raise PlanError(
        f"{least.budget / 2**30:.2f} GiB of memory do not suffice: the smallest plan, tiles of "
        f"{least.plan.sample.tile} pixels, takes at least {least.peak / 2**30:.2f} GiB; give `memory_gb` "
        f"{least.peak / 2**30 + 0.05:.1f} if there is so much, else a lower `upscale` or `precision` bf16"
    )


def _hopeless(least: Forecast, plan: Plan) -> bool:
    """Whether a plan is far too large; memory is about proportional to the area of a tile."""
    share = (plan.sample.tile / least.plan.sample.tile) ** 2
    # Half of the estimate: leaving out a plan that fits is worse than compiling one that does not.
    return least.base + 0.5 * share * (least.peak - least.base) > least.budget


def forecast(executor: Executor, images: Sizes, budget: int, beside: int = 0) -> Forecast:
    """The memory of the most expensive images under the executor's plan, with `beside` for other things."""
    measured = {measure(*image, executor.preset, executor.plan) for image in images}
    sides, shape = max(measured, key=lambda found: _weight(*found))
    host, params, names = _host(executor, sides, shape), _params_bytes(executor), stages_of(executor, images)
    on_host = jax.default_backend() == "cpu"
    base = (resident() if on_host else params) + beside
    if on_host and base + max((host[name] for name in names), default=0) > budget:
        # The images alone do not fit: compile nothing.
        stages = dict.fromkeys(names, 0)
    else:
        stages = {name: analyse(executor, name, shape) for name in names}
    if on_host:
        peak = base + RUNTIME + max((stages[name] + host[name] for name in stages), default=0)
        peak += _company([found[0] for found in measured], len({found[1] for found in measured}), len(images))
    else:
        peak = base + max(stages.values(), default=0)
    return Forecast(executor, shape, stages, base, max(host.values()), peak, budget)


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
    """Bytes that a run may use: of the device or, on CPUs, of the machine, including the memory of this process."""
    stats = jax.local_devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if stats and "bytes_limit" in stats:
        return int(USABLE * stats["bytes_limit"])
    free = psutil.virtual_memory().available
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdecimal():
        free = min(free, int(text) - resident())
    return int(USABLE * free) + resident()


def analyse(executor: Executor, stage: str, shape: Shape) -> int:
    """Memory of a stage's largest program for images of a shape: bytes on one device, without parameters.

    The programs are compiled for that and kept for the run.
    """
    taken = []
    calls = abstract_calls(executor, stage, shape)
    executor.programs.doing = STAGE_NAMES[stage]
    for function, arguments, static in calls:
        found = executor.programs.memory(function, *arguments, **static)
        taken.append(_size(arguments) // executor.programs.devices + found.results + found.temporary)
    return max(taken)


def abstract_calls(executor: Executor, stage: str, shape: Shape) -> list[Call]:
    """The programs that a stage needs for images of a shape."""
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


def _size(tree: Tree) -> int:
    """Bytes of arrays that are not parameters, which every call reads."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.ShapeDtypeStruct)]
    return sum(int(np.prod(leaf.shape)) * np.dtype(_plain(leaf.dtype)).itemsize for leaf in leaves)


def _plain(dtype: DTypeLike) -> DTypeLike:
    return np.uint64 if jnp.issubdtype(dtype, jax.dtypes.prng_key) else dtype


def _params_bytes(executor: Executor) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(executor.params))


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
    held = {
        "rm": lq + clean + (result + max(before, after) if wanted.stage1_only else before),
        "encode": clean + latents + (3 * depth * pixels if start else 0),
        "sample": clean + latents,
        "decode": clean + 2 * latents + (result if whole or after else 0) + after,
    }
    return {name: images * (taken + kept) for name, taken in held.items()}


def _area(sides: Sequence[int]) -> int:
    return sides[0] * sides[1]
