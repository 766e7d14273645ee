"""--task faces: the networks of crops beside those of photos, and the restorer that has both."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from diffbir_jax.batch.settings import Recipe
from diffbir_jax.console.pages import page
from diffbir_jax.faces.flags import BACKGROUNDS
from diffbir_jax.faces.identity import SFace, model_file
from diffbir_jax.faces.networks import differing, with_networks
from diffbir_jax.faces.restoring import FaceRestorer, Way
from diffbir_jax.models.presets import VARIANTS, Preset
from diffbir_jax.restoration.first_use import Allow, provide
from diffbir_jax.restoration.loras import merging
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.weights.loading import weight_files, with_stage1

# Versions that saw faces in training, beside those with networks of their own for the task.
FOR_FACES = ("osediff-face",)


def advice(recipe: Recipe) -> str:
    """What to expect of faces from networks that never saw faces, in a line; "" for others and without faces."""
    version = recipe.version
    if recipe.faces is None or (version, "face") in VARIANTS or version in FOR_FACES:
        return ""
    trained = ", ".join([*sorted(name for name, task in VARIANTS if task == "face"), *FOR_FACES])
    return (
        f"--version {version} has no network for faces: they become crisper, but not more like the person "
        f"({page('faces')}); made for faces are {trained}"
    )


class CropNetworks(NamedTuple):
    """The networks of crops that those of photos lack: the preset, and files by network; none if all are shared."""

    preset: Preset | None = None
    files: Mapping[str, Path] = {}


def crop_networks(recipe: Recipe, preset: Preset, files: Mapping[str, Path], allow: Allow) -> CropNetworks:
    """Return the networks of aligned crops beside those of `preset`, whose files are given. Errors as in `provide`."""
    if recipe.faces is None:
        return CropNetworks()
    own = with_stage1(recipe.preset(faces=True), recipe.stage1, recipe.weights)
    if own == preset:
        return CropNetworks()
    provide(own, recipe.weights, allow)
    names = [name for name in differing(own, preset) if name in files]
    return CropNetworks(own, weight_files(own, recipe.weights, names))


def face_restorer(recipe: Recipe, restorer: Restorer, crops: CropNetworks) -> FaceRestorer:
    """Return what restores photos by `restorer` and their faces by the networks of crops."""
    assert recipe.faces is not None
    faces = restorer
    if crops.preset is not None:
        change = merging(crops.preset, recipe.lora)
        faces = with_networks(restorer, crops.preset, recipe.weights, crops.files, change)
        faces.programs.compiling = restorer.programs.compiling
    word = recipe.background if recipe.background in BACKGROUNDS else "resize"
    # SFace comes with a package that whoever wants identities installs.
    judge = SFace() if model_file() else None
    return FaceRestorer(faces, restorer, Way(recipe.faces, word, judge=judge))  # pyright: ignore[reportArgumentType]
