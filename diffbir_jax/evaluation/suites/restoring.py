"""A method's images on disk: made if missing, kept if the same recipe made them."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax

from diffbir_jax.console.errors import UserError
from diffbir_jax.console.progress import tally
from diffbir_jax.evaluation.scoring import versions
from diffbir_jax.evaluation.suites.datasets import Images
from diffbir_jax.evaluation.suites.methods import Method
from diffbir_jax.evaluation.suites.spec import Suite
from diffbir_jax.files.checked import read_checked
from diffbir_jax.files.digest import known_sha256
from diffbir_jax.files.records import write_record
from diffbir_jax.imaging.reading import read_image
from diffbir_jax.imaging.writing import write_png

FORMAT = 1
RECIPE = "recipe.json"


def recipe(suite: Suite, images: Images, method: Method) -> dict[str, object]:
    """Return everything that decides a method's images, as JSON.

    Raises:
        FileNotFoundError, OSError: weights are missing or cannot be read.
    """
    # By content, so that a changed input is noticed.
    names = [(case.name, known_sha256(case.preds[0])) for case in images.cases]
    return {
        "format": FORMAT,
        "suite": suite.name,
        "suite_version": suite.version,
        "dataset": images.dataset.name,
        "inputs": hashlib.sha256(json.dumps(names).encode()).hexdigest(),
        "upscale": suite.upscale,
        "method": method.name,
        "settings": dict(method.settings),
        "seeds": list(method.seeds),
        "weights": {name: known_sha256(path) for name, path in method.files().items()},
        # Packages and the kind of device change pixels, so they are part of the recipe.
        "versions": versions(),
        "backend": jax.default_backend(),
    }


def check_recipe(folder: Path, wanted: Mapping[str, object]) -> None:
    """Raise ValueError if a folder holds images of another recipe."""
    path = folder / RECIPE
    if not path.is_file():
        if any(folder.rglob("*.png")):
            raise UserError(
                f"{folder} holds images, but no {RECIPE} that says what made them: give a new --output"
            )
        return
    found = read_checked(path, dict[str, object], "recipe", "give a new --output")
    told = sorted(_differences(found, wanted))
    if told:
        more = " and more" if len(told) > 3 else ""
        raise UserError(
            f"{folder} holds images of another recipe (of other {', '.join(told[:3])}{more}): give a new --output"
        )


def result_folders(method: Method, folder: Path) -> tuple[Path, ...]:
    """Return the folders of a method's images, one per seed, inside its folder."""
    return tuple(folder / f"seed{seed}" for seed in method.seeds) or (folder,)


def restore_images(images: Images, method: Method, folder: Path, wanted: Mapping[str, object]) -> None:
    """Make the missing images of a method: `folder`[/seed<k>]/<name>.png, with the recipe beside them.

    Args:
        images: the inputs.
        method: the method.
        folder: folder of the method.
        wanted: its `recipe`.

    Raises:
        ImageFileError: an input cannot be read, or a result not written.
        ValueError: an image cannot be restored.
    """
    folders, seeds = result_folders(method, folder), method.seeds or (0,)
    todo = {
        (seed, place): [
            i for i, case in enumerate(images.cases) if not (place / f"{case.name}.png").is_file()
        ]
        for seed, place in zip(seeds, folders)
    }
    left = sum(map(len, todo.values()))
    if not left:
        return
    # Before the first image: an interrupted run must be recognised.
    write_record(folder / RECIPE, wanted)
    total, title = len(folders) * len(images.cases), f"{images.dataset.name}: {method.title}"
    with tally(title, total, total - left) as step:
        restore = method.load()
        for (seed, place), indices in todo.items():
            inputs = ((index, read_image(images.cases[index].preds[0])) for index in indices)
            for index, image in restore(inputs, seed):
                write_png(place / f"{images.cases[index].name}.png", image)
                step()


def _differences(found: object, wanted: object, where: str = "") -> Iterator[str]:
    """Yield the names of entries that differ."""
    if not (isinstance(found, Mapping) and isinstance(wanted, Mapping)):
        if found != wanted:
            yield where or "kind"
        return
    for name in found.keys() | wanted.keys():
        yield from _differences(found.get(name), wanted.get(name), f"{where}.{name}" if where else name)
