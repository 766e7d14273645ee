"""Find the image files of a folder."""

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.imaging.decoding import HEAD, kind_of

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".avif", ".tif", ".tiff", ".bmp")


class Listing(NamedTuple):
    """What a folder and its subfolders hold, sorted by path.

    Attributes:
        images: files with a suffix of `SUFFIXES`, or that begin as images do; and broken links with such a suffix.
        others: what is no image; hidden files are in neither.
    """

    images: list[Path]
    others: list[Path]


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
    return _some([path for path in _files(folder, exclude) if _named(path) and os.path.isfile(path)], folder)


def list_folder(folder: str | os.PathLike, exclude: Iterable[str | os.PathLike] = ()) -> Listing:
    """Return what a folder holds, by content; arguments and errors as in `find_images`.

    A file with an image's suffix is one: if it is damaged, somebody wants to know. So is a link to nothing: the disk
    of its photo may not be mounted. Pipes and devices are not opened.
    """
    images, others = [], []
    for path in _files(folder, exclude):
        (images if _is_image(path) else others).append(path)
    return Listing(_some(images, folder), others)


def stem_of(name: Path) -> str:
    """Return a name without its suffix; accents in one or two characters, as systems write them, are equal."""
    return unicodedata.normalize("NFC", str(name.with_suffix("")))


def _files(folder: str | os.PathLike, exclude: Iterable[str | os.PathLike]) -> list[Path]:
    """Everything below a folder that is not hidden and no folder."""
    excluded = {Path(path).resolve() for path in exclude}
    paths: list[Path] = []
    for place, folders, files in os.walk(_folder(folder), onerror=_raise):
        here = Path(place)
        # os.walk descends only into the folders left in this list.
        folders[:] = [name for name in folders if name[0] != "." and (here / name).resolve() not in excluded]
        paths += [here / name for name in files if name[0] != "."]
    return sorted(paths)


def _is_image(path: Path) -> bool:
    # Not pathlib's: these raise for links into closed folders, or to names that no file can have.
    if os.path.isfile(path):
        return _named(path) or _begins_as_image(path)
    return _named(path) and os.path.islink(path) and not os.path.exists(path)


def _named(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _begins_as_image(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return kind_of(file.read(HEAD)) is not None
    except OSError:
        return False


def _folder(folder: str | os.PathLike) -> Path:
    folder = Path(folder)
    if not folder.is_dir():
        problem = "is a file, not a folder" if folder.exists() else "no such folder; check the path"
        raise ImageFileError(f"{folder}: {problem}")
    return folder


def _some(paths: list[Path], folder: str | os.PathLike) -> list[Path]:
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
