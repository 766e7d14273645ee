"""The memory of a run: a plan that fits it, compilation ahead of time, and what the C library keeps."""

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from PIL import Image
from tqdm import tqdm

from diffbir_jax.batch.jobs import Job
from diffbir_jax.batch.report import Journal, counted
from diffbir_jax.batch.settings import Recipe, Settings
from diffbir_jax.restoration.effort import costs, effort
from diffbir_jax.restoration.plan import STAGES, Plan, StagePlan
from diffbir_jax.restoration.planner import Size, compile_all, make_plan
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.restoration.results import Wanted

# EXIF orientations that exchange height and width.
LYING = (5, 6, 7, 8)


def planned(
    restorer: Restorer,
    settings: Settings,
    jobs: Sequence[Job],
    record: Mapping[str, Any] | None,
    journal: Journal,
) -> Plan | None:
    """Choose the plan of a run and print it, or take that of a sidecar. With --warmup also compile all programs.

    The journal learns how much there is to compute.

    Raises:
        PlanError: no plan fits the memory.
    """
    if record is not None and record["plan"] is not None:
        return plan_from(record["plan"])
    images = sizes(jobs, settings.recipe)
    if not images:
        return None
    memory = None if settings.memory_gb is None else int(settings.memory_gb * 2**30)
    found = make_plan(
        restorer, restorer.programs, images, wanted(settings, jobs), memory, norms=settings.vae_norms
    )
    lines = ["plan for the images that take most:", *found.lines()] if settings.plan else [found.sentence()]
    tqdm.write("\n".join(lines))
    expected = costs(found.executor, images, found.shape)
    journal.expect(expected, _total(effort(found.executor, image, expected) for image in images))
    if settings.warmup:
        for _ in tqdm(compile_all(found.executor, images), "compiling", unit="shape", disable=None):
            pass
        tqdm.write(f"{counted(restorer.compiled, 'program')} in the cache")
    return found.plan


def wanted(settings: Settings, jobs: Sequence[Job]) -> Wanted:
    """What to make of every image."""
    recipe = settings.recipe
    fidelity = any(job.outputs.weight for job in jobs)
    return Wanted(recipe.options, recipe.n_samples, recipe.keeps_stages, fidelity, recipe.stage1_only)


def sizes(jobs: Sequence[Job], recipe: Recipe) -> list[tuple[Size, Size]]:
    """Sides of the inputs that can be read, and of their results."""
    return [(size, _scaled(size, recipe)) for job in jobs if (size := size_of(job))]


def by_size(jobs: Sequence[Job]) -> list[Job]:
    """Jobs with the smallest input first: a run shows soon what it does."""
    return sorted(jobs, key=lambda job: math.prod(size_of(job) or (0, 0)))


def summary(jobs: Sequence[Job], recipe: Recipe) -> str:
    """Say what a run is about to do, before anything is loaded."""
    pairs = sizes(jobs, recipe)
    if len(pairs) == 1:
        (height, width), (tall, wide) = pairs[0]
        return f"{counted(len(jobs), 'image')}: {width}x{height} to {wide}x{tall} pixels, version {recipe.version}"
    before, after = (
        (sum(math.prod(size) for size in column) / 1e6 for column in zip(*pairs)) if pairs else (0, 0)
    )
    return f"{counted(len(jobs), 'image')}: {before:.2f} to {after:.2f} megapixels, version {recipe.version}"


def _total(efforts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for each in efforts:
        for stage, work in each.items():
            found[stage] = found.get(stage, 0.0) + work
    return found


def size_of(job: Job) -> tuple[int, int] | None:
    """Height and width of an input, from its header; None if it cannot be read, which the run reports later."""
    with contextlib.suppress(Exception), Image.open(job.path) as image:
        lying = image.getexif().get(0x0112) in LYING
        return (image.width, image.height) if lying else (image.height, image.width)
    return None


def _scaled(size: tuple[int, int], recipe: Recipe) -> tuple[int, int]:
    height, width = (max(1, round(side * recipe.upscale)) for side in size)
    return height, width


def plan_from(record: Mapping[str, Any]) -> Plan:
    """Return the plan that a sidecar holds."""
    return Plan(**{**record, **{name: StagePlan(*record[name]) for name in STAGES}})
