"""Photos as `imaging.files` will read and write them; goes once it does."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from diffbir_jax.imaging.files import SUFFIXES, ImageFileError, read_image, write_png


class Photo(NamedTuple):
    """An image with what its file holds beside RGB."""

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    grey: bool = False
    metadata: Any = None


def read_photo(path: str | os.PathLike, max_pixels: int) -> Photo:
    """Read a photo."""
    photo = Photo(read_image(path))
    if photo.pixels.shape[0] * photo.pixels.shape[1] > max_pixels:
        raise ImageFileError(f"{path}: is too large; give another --max-pixels")
    return photo


def write_photo(path: str | os.PathLike, photo: Photo, *, quality: int = 95) -> None:
    """Write a photo."""
    if Path(path).suffix == ".png":
        return write_png(path, photo.pixels)
    Image.fromarray(photo.pixels).save(path, quality=quality)


def find_images(folder: Path, exclude: tuple[Path, ...] | list[Path] = ()) -> list[Path]:
    """Find images."""
    found = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in SUFFIXES and p.is_file()]
    found = [p for p in found if not any(e.resolve() in p.resolve().parents for e in exclude)]
    if not found:
        raise ImageFileError(f"{folder}: holds no image file")
    return found


def resize_alpha(alpha: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Resize."""
    return np.asarray(Image.fromarray(alpha).resize((size[1], size[0])))
