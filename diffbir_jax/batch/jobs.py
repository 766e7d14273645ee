"""The jobs of a run: inputs, ready-made files for them, files to write; checked before any computation."""

import codecs
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from diffbir_jax.batch.captions import captions_of, earlier_captions
from diffbir_jax.batch.names import Outputs, check_clashes, outputs_of, real_folder, some, suffix_of
from diffbir_jax.batch.settings import Recipe, Settings
from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.imaging.listing import list_folder, stem_of
from diffbir_jax.models.presets import get_preset
from diffbir_jax.restoration.pictures import noise_index
from diffbir_jax.weights.loading import NO_STAGE1, weights_folder


@dataclass(frozen=True)
class Job:
    """An input file with everything that belongs to it.

    Attributes:
        path: the input, as the user would write it.
        name: path of the input below the folder that the output folder mirrors.
        index: selects the noise.
        outputs: files to write.
        clean: the input's ready-made stage-1 image, or None.
        mask: the input's fidelity mask, or None.
        ground: the picture that the input's faces are pasted into, or None.
        caption: words for what the input shows.
    """

    path: Path
    name: Path
    index: int
    outputs: Outputs
    clean: Path | None = None
    mask: Path | None = None
    ground: Path | None = None
    caption: str = ""


class Inputs(NamedTuple):
    """The inputs of a run: path and name below the folder that results mirror, and files that are no images."""

    names: dict[Path, Path]
    others: list[Path]


def find_jobs(settings: Settings, inputs: Inputs | None = None) -> tuple[list[Job], list[Path]]:
    """Return all jobs, of all hosts together, sorted by name or in the order of the list; and what is no image.

    Args:
        settings: the run.
        inputs: of a bucket; by default those that the settings name.

    Raises:
        ImageFileError: there is no image, ready-made images or masks are missing, or results would overwrite files of
            the user or each other.
    """
    names, others = inputs or find_inputs(settings)
    clean, masks = stage1_images(settings, names), fidelity_masks(settings, names)
    many = settings.list is not None or bool(settings.paths)
    many |= settings.input is not None and settings.input.is_dir()
    grounds, captions = backgrounds(settings, names), given_captions(settings, names, many)
    jobs = [
        Job(
            path,
            name,
            noise_index(path),
            outputs_of(settings, name, many),
            clean.get(path),
            masks.get(path),
            grounds.get(path),
            captions.get(path, ""),
        )
        for path, name in names.items()
    ]
    check_jobs(jobs, settings)
    return jobs, others


def check_jobs(jobs: Sequence[Job], settings: Settings) -> None:
    """Check that no file of the user is lost, that names fit and formats hold the bits; else ImageFileError."""
    folders = {real_folder(job.path.parent) for job in jobs}
    for folder in [settings.output, *{job.outputs.folder for job in jobs}]:
        if real_folder(folder) in folders:
            check_output(folder, folder, "inputs")
    given = [path for job in jobs for path in (job.path, job.clean, job.mask, job.ground) if path]
    given += [settings.report] if settings.report else []
    written = [(job.path, job.outputs) for job in jobs]
    check_clashes(written, given, settings)
    check_depth(jobs, settings.recipe)


def check_output(output: Path, folder: Path, what: str) -> None:
    """Raise ImageFileError if two folders are the same."""
    if real_folder(output) == real_folder(folder):
        raise ImageFileError(
            f"{output}: is the folder of the {what}; give another --output, or originals may be lost"
        )


def check_depth(jobs: Iterable[Job], recipe: Recipe) -> None:
    """Raise ImageFileError if the formats of the inputs, which are kept, cannot hold 16 bits."""
    bad = [job.path for job in jobs if suffix_of(recipe, job.name) in (".jpg", ".jpeg", ".webp")]
    if recipe.bit_depth == "16" and bad:
        raise ImageFileError(
            f"{some(bad)}: this format holds 8 bits; give --bit-depth same, or --format png or tiff"
        )


def find_inputs(settings: Settings) -> Inputs:
    """Return every input; ImageFileError if there is none."""
    if settings.list is not None or settings.paths:
        paths, others = (read_list(settings.list), []) if settings.list is not None else expanded(settings)
        root = Path(os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths]))
        return Inputs({path: Path(os.path.abspath(path)).relative_to(root) for path in paths}, others)
    path = settings.input
    if path is None or not path.exists():
        raise ImageFileError(
            f"{path}: no such file or folder; give an image or a folder of images as --input"
        )
    if not path.is_dir():
        return Inputs({path: Path(path.name)}, [])
    check_output(settings.output, path, "inputs")
    images, others = list_folder(path, own_folders(settings))
    return Inputs({found: found.relative_to(path) for found in images}, others)


def expanded(settings: Settings) -> tuple[list[Path], list[Path]]:
    """Return the files among several inputs and the images in their folders, each once, and what is no image there.

    Raises:
        ImageFileError: see `find_jobs`.
    """
    found: dict[str, Path] = {}
    left: list[Path] = []
    for path in settings.paths:
        inside, others = list_folder(path, own_folders(settings)) if path.is_dir() else ([path], [])
        found.update((os.path.abspath(file), file) for file in inside)
        left += others
    return list(found.values()), left


def own_folders(settings: Settings) -> list[Path]:
    """Return the folders that never hold inputs: results, maps, masks, stage-1 images."""
    made = (
        settings.guidance_map,
        settings.fidelity_mask,
        settings.recipe.backs,
        stage1_folder(settings.recipe),
    )
    return [settings.output, *(folder for folder in made if folder)]


def read_list(source: str) -> list[Path]:
    """Return the paths of a text file, or of standard input for "-": one per line, each once.

    Names may end in NUL, as `find -print0` writes them. PowerShell writes UTF-16 with a byte order mark.

    Raises:
        ImageFileError: the file cannot be read or names no path.
    """
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise ImageFileError(
            f"{source}: cannot be read ({error.strerror}); give a text file as --list"
        ) from None
    # File names are bytes and may not be UTF-8.
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = data.decode("utf-16", "replace") if wide else os.fsdecode(data).removeprefix("\ufeff")
    lines = text.split("\0") if text.endswith("\0") else [line.rstrip("\r") for line in text.split("\n")]
    paths: dict[str, Path] = {}
    for line in lines:
        if "://" in line:
            raise ImageFileError(
                f"{source}: names {line}; a list has paths of this machine, and a bucket's folder is given as PHOTO"
            )
        if line.strip():
            paths.setdefault(os.path.abspath(line), Path(line))
    if not paths:
        raise ImageFileError(f"{source}: names no image; put one path on each line")
    return list(paths.values())


def stage1_folder(recipe: Recipe) -> Path | None:
    """Return the folder of ready-made stage-1 images, if --stage1 is a folder and not the name of a network."""
    folder = Path(recipe.stage1 or "")
    if not recipe.stage1 or recipe.stage1 == NO_STAGE1 or not folder.is_dir():
        return None
    named = weights_folder(get_preset(recipe.version), recipe.weights) / f"{recipe.stage1}.safetensors"
    return None if named.is_file() else folder


def stage1_images(settings: Settings, names: dict[Path, Path]) -> dict[Path, Path]:
    """Return the ready-made stage-1 image of each input; none unless --stage1 is a folder. Errors as in `named_as`."""
    folder = stage1_folder(settings.recipe)
    return {} if folder is None else named_as(names, folder, settings.output, "stage-1 image")


def fidelity_masks(settings: Settings, names: dict[Path, Path]) -> dict[Path, Path]:
    """Return the fidelity mask of each input; none without --fidelity-mask. Errors as in `named_as`."""
    mask = settings.fidelity_mask
    if mask is None:
        return {}
    return named_as(names, mask, settings.output, "mask") if mask.is_dir() else dict.fromkeys(names, mask)


def backgrounds(settings: Settings, names: dict[Path, Path]) -> dict[Path, Path]:
    """Return the ready background of each input; none unless --background is a folder. Errors as in `named_as`."""
    folder = settings.recipe.backs
    return {} if folder is None else named_as(names, folder, settings.output, "background")


def given_captions(settings: Settings, names: dict[Path, Path], many: bool) -> dict[Path, str]:
    """Return the caption of each input that has one before anything runs; those of "auto" come later.

    Errors as in `captions_of` and `earlier_captions`.
    """
    if settings.captions == "auto":
        return {}
    if settings.captions != "sidecars":
        return captions_of(settings.captions, names)
    noted = replace(settings, sidecar=True)
    sidecars = {path: outputs_of(noted, name, many).sidecar for path, name in names.items()}
    return earlier_captions({path: sidecar for path, sidecar in sidecars.items() if sidecar})


def named_as(names: dict[Path, Path], folder: Path, output: Path, what: str) -> dict[Path, Path]:
    """Return the image in `folder` for each input: the one with the same subfolder and stem.

    Raises:
        ImageFileError: the folder lacks an image or has several for an input (the error lists the first few), or
            results would overwrite them.
    """
    check_output(output, folder, f"{what}s")
    ready: dict[str, list[Path]] = defaultdict(list)
    for path in list_folder(folder).images:
        ready[stem_of(path.relative_to(folder))].append(path)
    stems = {path: stem_of(name) for path, name in names.items()}
    bad = [stem for stem in stems.values() if len(ready[stem]) != 1]
    if bad:
        raise ImageFileError(f"{folder}: holds no {what}, or several, named {some(bad)}; give one each")
    return {path: ready[stem][0] for path, stem in stems.items()}
