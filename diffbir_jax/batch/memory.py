"""The memory of a run: a plan that fits it, compilation ahead of time, and what the C library keeps."""

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from tqdm import tqdm

from diffbir_jax.batch.jobs import Job
from diffbir_jax.batch.report import Journal, counted
from diffbir_jax.batch.settings import Recipe, Settings
from diffbir_jax.batch.sidecar import Sidecar
from diffbir_jax.console.errors import UserError, as_flags
from diffbir_jax.faces.memory import beside, crop_sizes, crops_plan
from diffbir_jax.faces.restoring import FaceRestorer
from diffbir_jax.imaging.headers import header_size
from diffbir_jax.imaging.photo import MIN_SIDE
from diffbir_jax.restoration import known
from diffbir_jax.restoration.effort import costs, effort
from diffbir_jax.restoration.executor import Executor
from diffbir_jax.restoration.geometry import Shape, measure
from diffbir_jax.restoration.plan import Plan
from diffbir_jax.restoration.planner import (
    Forecast,
    PlanError,
    Size,
    Sizes,
    compile_all,
    make_plan,
    programs_of,
)
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.restoration.results import Wanted

# Operations, or programs.
Number = TypeVar("Number", int, float)
ADVICE = "give a higher --memory-gb or a lower --upscale, or crop it"


def planned(
    restorer: Restorer | FaceRestorer,
    settings: Settings,
    jobs: Sequence[Job],
    record: Sidecar | None,
    journal: Journal,
) -> Plan | None:
    """Choose the plan of a run and print it, or take that of a sidecar. With --warmup also compile all programs.

    The journal learns how much there is to compute, and which images do not fit the memory; the others are planned for.

    Raises:
        PlanError: no plan fits the memory, not even for the smallest image.
    """
    if isinstance(restorer, FaceRestorer):
        return planned_faces(restorer, settings, jobs, record, journal)
    if record is not None and record.plan is not None:
        return _repeated(restorer, record.plan.on(restorer.programs.devices), settings, jobs, journal)
    return _planned(restorer, settings, jobs, journal)


def planned_faces(
    both: FaceRestorer, settings: Settings, jobs: Sequence[Job], record: Sidecar | None, journal: Journal
) -> Plan | None:
    """As `planned`, for photos and crops of their faces: the restorer gets the plan of crops."""
    images = list(sizes(jobs, settings.recipe).values())
    made, memory = wanted(settings, jobs), memory_of(settings)
    backs = settings.recipe.background == "sr"
    if record is not None and record.crops is not None:
        both.plan = record.crops.on(both.faces.programs.devices)
        return record.plan and record.plan.on(both.behind.programs.devices)
    if not images:
        return None
    look = counting(journal, [crop_sizes(both)])
    found = crops_plan(both, made, images, memory, settings.vae_norms, look=look)
    both.plan = found.plan
    show("crops of faces", found, settings, "faces: ")
    side = crop_sizes(both)
    expected = costs(found.executor, [side], found.shape)
    work = effort(found.executor, side, expected)
    both.found = lambda faces: journal.expect_more({stage: faces * each for stage, each in work.items()})
    if settings.warmup:
        compile_shapes(found, [side], both.faces)
    if backs:
        return _planned(both.behind, settings, jobs, journal, beside(both, made, images))
    journal.expect(expected, {})
    return None


def memory_of(settings: Settings) -> int | None:
    """The memory limit in bytes; None without one."""
    return None if settings.memory_gb is None else int(settings.memory_gb * 2**30)


def _planned(
    restorer: Restorer, settings: Settings, jobs: Sequence[Job], journal: Journal, other: int = 0
) -> Plan | None:
    """As `planned`, for whole images, while the run takes `other` bytes for other things."""
    measured = sorted(sizes(jobs, settings.recipe).items(), key=lambda entry: math.prod(entry[1][1]))
    if not measured:
        return None
    memory = memory_of(settings)
    made, before = wanted(settings, jobs), dict(journal.meter.foreseen)

    def plan_of(number: int) -> Forecast:
        smallest = [pair for _, pair in measured[:number]]
        norms, look = settings.vae_norms, counting(journal, smallest, before)
        return make_plan(
            restorer, restorer.programs, smallest, made, memory, norms=norms, beside=other, look=look
        )

    found, number = fitting(plan_of, len(measured))
    for job, ((height, width), _) in measured[number:]:
        journal.failed(job, f"{job.path}: {width}x{height} pixels need more memory than there is; {ADVICE}")
    images = [pair for _, pair in measured[:number]]
    counting(journal, images, before)(found.executor)
    show("the images that take most", found, settings)
    _expect(found.executor, images, found.shape, journal)
    if settings.warmup:
        compile_shapes(found, images, restorer)
    return found.plan


def counting(
    journal: Journal, images: Sizes, before: Mapping[str, int] | None = None
) -> Callable[[Executor], None]:
    """Return what tells the journal how many programs a plan needs, beside those of an earlier plan."""
    before = dict(journal.meter.foreseen) if before is None else before

    def look(executor: Executor) -> None:
        journal.meter.foresee(_total((before, programs_of(executor, images))))

    return look


def _expect(executor: Executor, images: Sizes, shape: Shape, journal: Journal) -> None:
    """Tell the journal how much there is to compute, as the programs for images of a shape count it."""
    expected = costs(executor, images, shape)
    journal.expect(expected, _total(effort(executor, image, expected) for image in images))


def _repeated(
    restorer: Restorer, plan: Plan, settings: Settings, jobs: Sequence[Job], journal: Journal
) -> Plan:
    """The plan of a sidecar; the journal learns what its image takes."""
    executor = Executor(restorer, restorer.programs, plan, wanted(settings, jobs))
    for image in sizes(jobs, settings.recipe).values():
        counting(journal, [image])(executor)
        _expect(executor, [image], measure(*image, executor.preset, plan)[1], journal)
    return plan


def show(what: str, found: Forecast, settings: Settings, before: str = "") -> None:
    """Print a plan: with --plan as a table, else in a line, after `before`."""
    lines = [f"plan for {what}:", *found.lines()] if settings.plan else [f"{before}{found.sentence()}"]
    tqdm.write("\n".join(lines))


def compile_shapes(found: Forecast, images: Sizes, restorer: Restorer) -> None:
    """Compile all programs that images need, into the cache."""
    for _ in tqdm(compile_all(found.executor, images), "compiling", unit="shape", disable=None):
        pass
    tqdm.write(f"{counted(restorer.compiled, 'program')} in the cache")


def fitting(plan_of: Callable[[int], Forecast], count: int) -> tuple[Forecast, int]:
    """Return the plan for as many of the smallest images as fit, and their number.

    Args:
        plan_of: plans for so many images; raises PlanError if they do not fit.
        count: how many images there are.

    Raises:
        PlanError: not even the smallest fits.
    """
    try:
        return plan_of(count), count
    except PlanError:
        if count == 1:
            raise
    found, fits, fails = plan_of(1), 1, count
    while fails - fits > 1:
        middle = (fits + fails) // 2
        try:
            found, fits = plan_of(middle), middle
        except PlanError:
            fails = middle
    return found, fits


def wanted(settings: Settings, jobs: Sequence[Job]) -> Wanted:
    """What to make of every image."""
    recipe = settings.recipe
    fidelity = any(job.outputs.weight for job in jobs)
    return Wanted(recipe.options, recipe.n_samples, recipe.keeps_stages, fidelity, recipe.stage1_only)


def sizes(jobs: Sequence[Job], recipe: Recipe) -> dict[Job, tuple[Size, Size]]:
    """Sides of the inputs that can be read, and of their results."""
    return {job: (size, _scaled(size, recipe)) for job in jobs if (size := size_of(job, recipe.max_pixels))}


def by_size(jobs: Sequence[Job], recipe: Recipe) -> list[Job]:
    """Jobs with the smallest input first: a run shows soon what it does."""
    known = sizes(jobs, recipe)
    return sorted(jobs, key=lambda job: math.prod(known[job][0]) if job in known else 0)


def summary(jobs: Sequence[Job], recipe: Recipe) -> str:
    """Say what a run is about to do, before anything is loaded."""
    pairs = list(sizes(jobs, recipe).values())
    if len(pairs) == len(jobs) == 1:
        (height, width), (tall, wide) = pairs[0]
        return f"{counted(len(jobs), 'image')}: {width}x{height} to {wide}x{tall} pixels, version {recipe.version}"
    if not pairs:
        return f"{counted(len(jobs), 'image')} of a size that is not known yet, version {recipe.version}"
    before, after = (sum(math.prod(size) for size in column) / 1e6 for column in zip(*pairs))
    more = f", and {len(jobs) - len(pairs)} of unknown size" if len(pairs) < len(jobs) else ""
    known = f"{counted(len(pairs), 'image')}: {before:.2f} megapixels become {after:.2f}, all together{more}"
    return f"{known}, version {recipe.version}"


def _total(parts: Iterable[Mapping[str, Number]]) -> dict[str, Number]:
    found: dict[str, Number] = {}
    for each in parts:
        for stage, work in each.items():
            found[stage] = found[stage] + work if stage in found else work
    return found


def size_of(job: Job, max_pixels: int) -> tuple[int, int] | None:
    """Height and width of an input, from its header; None if it cannot be read, which the run reports later."""
    with contextlib.suppress(Exception):
        height, width = header_size(job.path)
        return (height, width) if height * width <= max_pixels and min(height, width) >= MIN_SIDE else None
    return None


def unfit(jobs: Iterable[Job], recipe: Recipe) -> dict[Job, str]:
    """Return the inputs that the mask of a known degradation does not fit, and why, by their headers."""
    found: dict[Job, str] = {}
    for job in jobs if recipe.hides else ():
        size = size_of(job, recipe.max_pixels)
        try:
            if size and recipe.hides:
                known.check_mask(recipe.hides, size)
        except UserError as error:
            found[job] = f"{job.path}: {as_flags(str(error))}"
    return found


def _scaled(size: tuple[int, int], recipe: Recipe) -> tuple[int, int]:
    height, width = (max(1, round(side * recipe.upscale)) for side in size)
    return height, width
