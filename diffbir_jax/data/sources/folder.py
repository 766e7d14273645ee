"""Image files by their paths: from a folder or from a list."""

from collections.abc import Sequence
from pathlib import Path

from diffbir_jax.data.example import DataError, Example
from diffbir_jax.data.sources.files import (
    check_some_exist,
    folder_of,
    is_local,
    join,
    locate,
    read,
    read_text,
    whole,
)
from diffbir_jax.data.sources.shared import digest
from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.imaging.listing import SUFFIXES, find_images


class FileSource:
    """Image files without captions. About 0.1 KB of memory per file, in every process."""

    def __init__(self, root: str, names: Sequence[str]):
        """Take the files.

        Args:
            root: path or URL of the folder of `names`.
            names: paths below it; absolute paths and URLs are allowed.
        """
        self._root, self._names = root, names

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Example:
        """Read file `index`; BrokenExampleError if that fails."""
        url = join(self._root, self._names[index])
        return Example(url, read(url))

    @property
    def fingerprint(self) -> str:
        """Digest of the names, without the root: data may move."""
        return digest(self._names)


def folder(path: str) -> FileSource:
    """Make a source of the images in a folder and all folders below it, by name.

    Files are chosen by suffix (`imaging.listing.SUFFIXES`), in upper or lower case; hidden files are left out.

    Args:
        path: the folder, or a URL of one.

    Raises:
        DataError: it is missing, holds no image, or cannot be listed.
    """
    names = _local(path) if is_local(path) else _remote(path)
    return FileSource(path, names)


def _local(path: str) -> list[str]:
    root = Path(locate(path)[1])
    try:
        # Paths relative to the folder take less memory; there may be millions.
        cut = len(str(root).rstrip("/")) + 1
        return [str(image)[cut:] for image in find_images(root)]
    except ImageFileError as error:
        raise DataError(str(error)) from None


def _remote(path: str) -> list[str]:
    with whole(path):
        system, root = locate(path)
        found = system.find(root)
    names = (name[len(root) :].lstrip("/") for name in found)
    # Sorted by parts, the order of a local folder: "a/b" before "a.b".
    parts = sorted(name.split("/") for name in names if name.lower().endswith(SUFFIXES))
    images = ["/".join(each) for each in parts if not any(part.startswith(".") for part in each)]
    if not images:
        raise DataError(
            f"{path}: holds no image file; give a folder with files ending in {', '.join(SUFFIXES)}"
        )
    return images


def listed(path: str, root: str | None = None) -> FileSource:
    """Make a source of the images in a text file: one path or URL per line, in this order.

    Blank lines and lines that start with # are skipped.

    Args:
        path: the text file, or its URL.
        root: folder of relative paths; by default the folder of the list.

    Raises:
        DataError: the list cannot be read or is empty, or the listed files are missing.
    """
    lines = (line.strip() for line in read_text(path).splitlines())
    names = [line for line in lines if line and not line.startswith("#")]
    if not names:
        raise DataError(f"{path}: lists no file; give a text file with one path per line")
    root = folder_of(path) if root is None else root
    check_some_exist(root, names, path)
    return FileSource(root, names)
