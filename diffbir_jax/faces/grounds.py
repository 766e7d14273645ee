"""The backgrounds that a caller gives for photos: a word, a folder, or pictures."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffbir_jax.console.errors import UserError
from diffbir_jax.faces.flags import BACKGROUNDS
from diffbir_jax.imaging.bytes import to_depth
from diffbir_jax.imaging.canvas import from_depth
from diffbir_jax.imaging.checks import check_range
from diffbir_jax.imaging.listing import list_folder, stem_of
from diffbir_jax.restoration.pictures import Picture, is_one, take

Grounds = Sequence[np.ndarray | None]


def grounds_of(
    background: str | Path | Picture | Sequence[Picture],
    pictures: Sequence[Picture],
    photos: Sequence[np.ndarray],
) -> tuple[str, Grounds]:
    """Return the word of `BACKGROUNDS` and the background of each photo that the caller has made.

    Args:
        background: such a word; a folder, which holds a picture named as each photo; or a picture per photo, for a
            single photo also the picture itself.
        pictures: the photos as they were given.
        photos: their pixels, (H, W, 3).

    Returns:
        the word, "resize" with pictures; and (h, w, 3) of the photo's dtype per photo, or None.

    Raises:
        UserError: another word, no such folder, or pictures that do not fit in number.
        ImageFileError: a file cannot be read.
    """
    if isinstance(background, str) and background in BACKGROUNDS:
        return background, [None] * len(photos)
    if isinstance(background, (str, os.PathLike)):
        given: Sequence[Picture] = _in_folder(Path(background), pictures)
    else:
        given = [background] if is_one(background) else list(background)
    if len(given) != len(photos):
        raise UserError(f"{len(given)} backgrounds for {len(photos)} photos; give one per photo")
    return "resize", [_like(ground, photo) for ground, photo in zip(given, photos)]


def _in_folder(folder: Path, pictures: Sequence[Picture]) -> list[Path]:
    """The picture in a folder that is named as each photo."""
    if not folder.is_dir():
        raise UserError(
            f"`background` is {str(folder)!r}, and no folder; use {', '.join(BACKGROUNDS)}, a folder or a picture per "
            "photo"
        )
    images = [path for path in list_folder(folder).images if path.parent == folder]
    return [_named(folder, images, number, picture) for number, picture in enumerate(pictures, 1)]


def _named(folder: Path, images: Sequence[Path], number: int, picture: Picture) -> Path:
    if not isinstance(picture, (str, os.PathLike)):
        raise UserError(
            f"`background` is the folder {folder}, but photo {number} has no name; give paths of photos, or a "
            "background per photo"
        )
    stem = stem_of(Path(Path(picture).name))
    found = [path for path in images if stem_of(Path(path.name)) == stem]
    if len(found) != 1:
        raise UserError(f"{folder}: holds no background, or several, named {stem}; give one")
    return found[0]


def _like(ground: Picture, photo: np.ndarray) -> np.ndarray:
    """The colours of a background in the dtype of the photo."""
    pixels = take(ground).pixels
    if pixels.size:
        check_range(pixels)
    return pixels if pixels.dtype == photo.dtype else to_depth(from_depth(pixels), photo.dtype)
