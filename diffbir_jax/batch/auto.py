"""--auto: a recipe for each photo, from the estimate of its degradation."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from diffbir_jax.batch.copies import can_copy
from diffbir_jax.batch.jobs import Job
from diffbir_jax.batch.report import Journal
from diffbir_jax.batch.settings import Recipe, Settings
from diffbir_jax.console.errors import EXPECTED, as_flags
from diffbir_jax.imaging.decoding import HEAD
from diffbir_jax.imaging.photo import Photo
from diffbir_jax.imaging.reading import read_photo
from diffbir_jax.restoration.auto import Choice, Decision, decide
from diffbir_jax.weights.loading import NO_STAGE1

# The sidecar's entry for a file that cannot be read.
UNREAD: Mapping[str, object] = {"estimate": None, "why": "no estimate"}


@dataclass(frozen=True)
class Part:
    """Jobs that share a recipe, and the sidecars' entry on how it was chosen, by job."""

    recipe: Recipe
    jobs: Sequence[Job]
    told: Mapping[Job, Mapping[str, object]] = dataclasses.field(default_factory=dict)


def parts_of(jobs: Sequence[Job], settings: Settings, journal: Journal) -> list[Part]:
    """Return the jobs by their recipes; without --auto all have that of the settings.

    What was estimated and chosen is printed. A photo that cannot be read, or is too small for an estimate, keeps the
    settings' recipe; that is printed, too.
    """
    if not settings.auto:
        return [Part(settings.recipe, jobs)]
    journal.meter.begin("estimating the degradation")
    groups: dict[str, tuple[Recipe, dict[Job, Mapping[str, object]]]] = {}
    for job in jobs:
        recipe, told = decided(job, settings, journal)
        groups.setdefault(repr(recipe), (recipe, {}))[1][job] = told
    return [Part(recipe, [*told], told) for recipe, told in groups.values()]


def decided(job: Job, settings: Settings, journal: Journal) -> tuple[Recipe, Mapping[str, object]]:
    """Return the recipe of a job and what its sidecar tells of it; prints a line."""
    recipe = settings.recipe
    try:
        photo = read_photo(job.path, recipe.max_pixels)
        with job.path.open("rb") as file:
            head = file.read(HEAD)
    except (*EXPECTED, MemoryError):
        # What is wrong with a file is told when it is read again, to restore it.
        return recipe, UNREAD
    recipe, decision = settled(photo, head, job.outputs.main.suffix, recipe, settings.given)
    if decision.found is None:
        journal.note(job.path, [as_flags(str(decision))])
    else:
        journal.say(job, as_flags(str(decision)))
    return recipe, decision.as_record()


def settled(
    photo: Photo, head: bytes, suffix: str, recipe: Recipe, given: Collection[str]
) -> tuple[Recipe, Decision]:
    """Decide on a photo.

    Args:
        photo: with its pixels.
        head: the first bytes of its file, see `can_copy`.
        suffix: of the result.
        recipe: what the user asks for.
        given: names of what the user set.

    Returns:
        The recipe for the photo, and how it was chosen.
    """
    decision = decide(photo.pixels, recipe.upscale, given)
    choice = decision.choice
    if choice.alone and can_copy(photo, head, suffix, recipe, given):
        choice = dataclasses.replace(choice, copied=True)
    return chosen(recipe, choice), dataclasses.replace(decision, choice=choice)


def chosen(recipe: Recipe, choice: Choice) -> Recipe:
    """Return a recipe with a choice: options, or the photo itself, which is stage 1 of no network."""
    if choice.alone:
        return left_alone(recipe, choice.copied)
    return dataclasses.replace(recipe, options=dataclasses.replace(recipe.options, **choice.options))


def left_alone(recipe: Recipe, copied: bool = False) -> Recipe:
    """Return a recipe whose results are the photos: stage 1 of no network, or copies of the files."""
    return dataclasses.replace(recipe, stage1=NO_STAGE1, stage1_only=True, lora=(), copied=copied)
