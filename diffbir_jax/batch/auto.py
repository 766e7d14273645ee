"""--auto: a recipe for each photo, from the estimate of its degradation."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from diffbir_jax.batch.checks import flags_of
from diffbir_jax.batch.jobs import Job
from diffbir_jax.batch.report import Journal
from diffbir_jax.batch.settings import OPTION_FIELDS, Recipe, Settings
from diffbir_jax.console.errors import EXPECTED
from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.imaging.reading import read_photo
from diffbir_jax.restoration.auto import Choice, choose, told_as
from diffbir_jax.restoration.estimate import estimate
from diffbir_jax.weights.loading import NO_STAGE1

# Flags that ask for networks: with one of them no photo is left alone.
DECIDING = {*OPTION_FIELDS, "lora", "fidelity_mask", "guidance_map"} - {"seed", "tile", "tile_stride"}


@dataclass(frozen=True)
class Part:
    """Jobs that share a recipe, and the sidecars' entry on how it was chosen, by job."""

    recipe: Recipe
    jobs: Sequence[Job]
    told: Mapping[Job, dict[str, object]] = dataclasses.field(default_factory=dict)


def parts_of(jobs: Sequence[Job], settings: Settings, journal: Journal) -> list[Part]:
    """Return the jobs by their recipes; without --auto all have that of the settings.

    What was estimated and chosen is printed. A photo that cannot be read, or is too small for an estimate, keeps the
    settings' recipe; that is printed, too.
    """
    if not settings.auto:
        return [Part(settings.recipe, jobs)]
    journal.meter.begin("estimating the degradation")
    groups: dict[str, tuple[Recipe, dict[Job, dict[str, object]]]] = {}
    for job in jobs:
        recipe, told = decide(job, settings, journal)
        groups.setdefault(repr(recipe), (recipe, {}))[1][job] = told
    return [Part(recipe, [*told], told) for recipe, told in groups.values()]


def decide(job: Job, settings: Settings, journal: Journal) -> tuple[Recipe, dict[str, object]]:
    """Return the recipe of a job and what its sidecar tells of it; prints a line."""
    recipe = settings.recipe
    try:
        found = estimate(read_photo(job.path, recipe.max_pixels).pixels)
    except (*EXPECTED, MemoryError) as error:
        # What is wrong with a file is told when it is read again, to restore it.
        if not isinstance(error, ImageFileError):
            journal.note(job.path, [f"no estimate, so it gets the usual settings: {error}"])
        return recipe, {"estimate": None, "why": "no estimate"}
    choice = kept(choose(found, recipe.upscale), settings.given)
    journal.say(job, f"{told_as(found)}: {choice}")
    return chosen(recipe, choice), {"estimate": found.as_record(), **dataclasses.asdict(choice)}


def kept(choice: Choice, given: Iterable[str]) -> Choice:
    """Return a choice without what the user set by flags: these win. A photo is not left alone if they ask for more."""
    given = {*given} & DECIDING
    if choice.alone and given:
        return Choice(why=f"{choice.why}, but {flags_of(given)} given")
    return dataclasses.replace(choice, options={k: v for k, v in choice.options.items() if k not in given})


def chosen(recipe: Recipe, choice: Choice) -> Recipe:
    """Return a recipe with a choice: options, or the photo itself, which is stage 1 of no network."""
    if choice.alone:
        return dataclasses.replace(recipe, stage1=NO_STAGE1, stage1_only=True)
    return dataclasses.replace(recipe, options=dataclasses.replace(recipe.options, **choice.options))
