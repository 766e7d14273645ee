"""`diffbir_jax.restore`: restoring in one call, whole images or the faces in them."""

import functools
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from PIL import Image

from diffbir_jax.console.errors import UserError
from diffbir_jax.faces.choice import Faces
from diffbir_jax.faces.flags import LEAST
from diffbir_jax.faces.masks import Shape
from diffbir_jax.faces.networks import differing, with_networks
from diffbir_jax.faces.whole import restore_faces
from diffbir_jax.models.presets import AnyTask, get_preset
from diffbir_jax.restoration import restore as images
from diffbir_jax.restoration.auto import check_auto
from diffbir_jax.restoration.lora_flag import Lora
from diffbir_jax.restoration.loras import merging
from diffbir_jax.restoration.names import AUTO_VERSION, FACES
from diffbir_jax.restoration.pictures import Picture, Result, is_one
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.restoration.results import Progress, Wanted
from diffbir_jax.weights.loading import with_stage1

# Arguments of faces alone.
ARGUMENTS = ("background", "face_size", "face_strength", "only_largest", "skip_sharp", "mask", "compat")


@overload
def restore(pictures: np.ndarray, *, task: AnyTask = ..., **arguments: object) -> np.ndarray: ...
@overload
def restore(
    pictures: Image.Image | str | os.PathLike, *, task: AnyTask = ..., **arguments: object
) -> Image.Image: ...
@overload
def restore(
    pictures: Iterable[np.ndarray], *, task: AnyTask = ..., **arguments: object
) -> list[np.ndarray]: ...
@overload
def restore(
    pictures: Iterable[Image.Image | str | os.PathLike], *, task: AnyTask = ..., **arguments: object
) -> list[Image.Image]: ...
@overload
def restore(pictures: Iterable[Picture], *, task: AnyTask = ..., **arguments: object) -> list[Result]: ...
def restore(
    pictures: Picture | Iterable[Picture], *, task: AnyTask = "sr", **arguments: Any
) -> Result | None | Sequence[Result | None]:
    """Restore one picture or several.

    >>> photo = Image.linear_gradient("L").resize((16, 16))
    >>> restore(photo, version="tiny", upscale=2).size
    (32, 32)

    Args:
        pictures: Pillow's image of any mode, an array (H, W) or (H, W, C) with 1 to 4 channels (uint8, uint16, or
            floats in [0, 1]), the path of an image file, or a list of these. Two and four channels end with alpha.
        task: "sr", "face" (aligned crops) or "denoise", which decide among the networks of v1, v2 and v2.1; or "faces":
            find the faces of whole photos, restore them by the networks for "face", and paste them into the photo.
        arguments: those of `restoration.restore.restore`. For "faces" `caption` is not one of them, but those of the
            command's flags are, by name: `background` ("sr", "resize", a folder of pictures named as the photos, or a
            picture per photo), `face_size` (least, most), `face_strength`, `only_largest`, `skip_sharp`, `mask` and
            `compat`.
            `faces.whole.restore_faces` gives reports and crops as well.

    Returns:
        For each picture one of its kind. A photo without a face is restored as background, with a warning.

    Raises:
        UserError: an argument or a picture that cannot be used; a ValueError.
        ImageFileError: a file cannot be read.
        FileNotFoundError: weights are missing.
    """
    if task == FACES:
        if arguments.pop("auto", False):
            check_auto(arguments.get("version", AUTO_VERSION), {"task"})
        return _with_faces(pictures, **arguments)
    return images.restore(pictures, task=task, **arguments)


def _with_faces(
    pictures: Picture | Iterable[Picture],
    *,
    version: str = "one-step",
    upscale: float = 4.0,
    stage1: str | None = None,
    weights: str | Path | None = None,
    lora: str | Path | Lora | Iterable[str | Path | Lora] = (),
    precision: str = "fp32",
    stage1_only: bool = False,
    caption: images.Caption = "",
    memory_gb: float | None = None,
    download: bool = False,
    set_up: bool = True,
    callback: Callable[[Progress], None] | None = None,
    background: str | Path | Picture | Sequence[Picture] = "sr",
    face_size: tuple[float, float | None] = (LEAST, None),
    face_strength: float = 1.0,
    only_largest: bool = False,
    skip_sharp: bool = False,
    mask: Shape = "ellipse",
    compat: bool = False,
    **options: object,
) -> Result | None | Sequence[Result | None]:
    """As `restore`, for faces in whole photos."""
    known = (*images.ARGUMENTS, *ARGUMENTS)
    chosen = images.settled(version, options, precision, set_up, known, upscale=upscale, memory_gb=memory_gb)
    least, most = _limits(face_size)
    choice = Faces(least, most, only_largest, skip_sharp, face_strength, mask, compat=compat)
    word = background if isinstance(background, str) else ""
    _check(word, caption)
    one = is_one(pictures)
    files = images.loras_of(lora)
    faces, behind = _networks(version, word == "sr", stage1, weights, precision, download, files)
    found = restore_faces(
        [pictures] if one else list(pictures),
        faces,
        upscale,
        chosen,
        background=background,
        behind=behind,
        choice=choice,
        memory=None if memory_gb is None else int(memory_gb * 2**30),
        wanted=Wanted(chosen, stage1_only=stage1_only, listen=callback),
    )
    for number, whole in enumerate(found, 1):
        if whole.note:
            warnings.warn(f"picture {number}: {whole.note}, restored as background", stacklevel=3)
    return found[0].image if one else [whole.image for whole in found]


def _check(background: str, caption: images.Caption) -> None:
    """Raise UserError for what faces in whole photos do not go with."""
    if background == "none":
        raise UserError(
            "`background` is 'none', which leaves no picture to give back; use sr, resize, a folder or a picture per "
            "photo, or faces.restore_faces, which gives crops"
        )
    if caption != "":
        raise UserError(
            '`caption` has words for a whole photo, and task="faces" restores crops; leave it out, or give '
            "`pos_prompt`, which is read for crops and background"
        )


def _limits(face_size: tuple[float, float | None]) -> tuple[float, float | None]:
    """The least and the most of `face_size`; UserError unless it holds two things."""
    if not isinstance(face_size, (tuple, list)) or len(face_size) != 2:
        raise UserError(
            f"`face_size` is {face_size!r}; give the least and the most in pixels, such as (20, 400), or (20, None) "
            "without a most"
        )
    return face_size[0], face_size[1]


@functools.lru_cache(maxsize=1)
def _networks(
    version: str,
    restored: bool,
    stage1: str | None,
    weights: str | Path | None,
    precision: str,
    download: bool,
    lora: tuple[Lora, ...],
) -> tuple[Restorer, Restorer]:
    """The restorers of crops and of backgrounds, which are one where nothing differs or no background is restored."""
    behind = images.loaded(version, "sr" if restored else "face", stage1, weights, precision, download, lora)
    preset = with_stage1(get_preset(version, "face"), stage1, weights)
    if not (names := differing(preset, behind.preset)):
        return behind, behind
    return with_networks(behind, preset, weights, names, merging(preset, lora)), behind
