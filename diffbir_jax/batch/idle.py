"""Flags that change nothing in a run: people should not have to find out from equal results."""

from collections.abc import Collection

from diffbir_jax.batch.settings import OPTION_FIELDS, Recipe
from diffbir_jax.models.presets import VARIANTS

# They say how much of each stage is seen, or change nothing by themselves.
SHARES = {"detail", "texture", "seed"}


def idle_flags(given: Collection[str], recipe: Recipe) -> str:
    """Return what flags have no effect and why, in a line; "" if all have.

    Args:
        given: names of the flags on the command line, as attributes.
        recipe: of whole images.
    """
    if recipe.faces is not None:
        return ""
    if "task" in given and idle_task(recipe):
        return idle_task(recipe)
    if recipe.stage1_only:
        return ""
    chosen, scale = recipe.options.detail, f"{recipe.upscale:g}"
    detail = recipe.preset().detail(recipe.upscale) if chosen is None else chosen
    if detail == 1.0 and recipe.options.texture and "texture" in given:
        return f"--texture has no effect at --upscale {scale}: all detail comes from stage 2; give a lower --detail"
    steering = sorted({*OPTION_FIELDS} & {*given} - SHARES)
    if detail or not steering:
        return ""
    flags = ", ".join(f"--{name.replace('_', '-')}" for name in steering)
    verb = "has" if len(steering) == 1 else "have"
    return f"{flags} {verb} no effect at --upscale {scale}: the result is stage 1's; give a --detail above 0"


def idle_task(recipe: Recipe) -> str:
    """Say that a version has no networks for the task, whose name promises some; "" if it has."""
    if recipe.task == "sr" or (recipe.version, recipe.task) in VARIANTS:
        return ""
    advice = "; for the faces of whole photos give --task faces" if recipe.task == "face" else ""
    return f"--task {recipe.task} has no effect: {recipe.version} has no networks of its own for this task{advice}"
