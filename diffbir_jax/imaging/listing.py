"""Find the image files of a folder."""

import os
from collections.abc import Iterable
from pathlib import Path

from diffbir_jax.files.errors import ImageFileError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")


def find_images(folder: str | os.PathLike, exclude: Iterable[str | os.PathLike] = ()) -> list[Path]:
    """Return the image files of a folder and its subfolders, sorted by path.

    Files are chosen by suffix, in upper or lower case. Hidden files and folders are left out, and links to folders are
    not followed.

    Args:
        folder: the folder.
        exclude: folders to leave out with their subfolders, such as one for results; they need not exist.

    Raises:
        ImageFileError: the folder is missing, is a file, or holds no image file; or a subfolder cannot be read.
    """
    folder = _folder(folder)
    excluded = {Path(path).resolve() for path in exclude}
    paths: list[Path] = []
    for place, folders, files in os.walk(folder, onerror=_raise):
        here = Path(place)
        # os.walk descends only into the folders left in this list.
        folders[:] = [name for name in folders if name[0] != "." and (here / name).resolve() not in excluded]
        paths += [here / name for name in files if _is_image(here / name)]
    return _some(sorted(paths), folder)


def _folder(folder: str | os.PathLike) -> Path:
    folder = Path(folder)
    if not folder.is_dir():
        problem = "is a file, not a folder" if folder.exists() else "no such folder; check the path"
        raise ImageFileError(f"{folder}: {problem}")
    return folder


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.name[0] != "." and path.is_file()


def _some(paths: list[Path], folder: Path) -> list[Path]:
    if not paths:
        raise ImageFileError(
            f"{folder}: holds no image file; put files ending in {', '.join(SUFFIXES)} there"
        )
    return paths


def _unlisted(error: OSError) -> ImageFileError:
    return ImageFileError(
        f"{error.filename}: cannot be listed ({error.strerror}); change its permissions or move it away"
    )


def _raise(error: OSError) -> None:
    raise _unlisted(error)
