"""Image files by their paths: from a folder or from a list."""

import logging
import os
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from diffbir_jax.data.example import DataError, Example
from diffbir_jax.data.sources.beside import TABLES, read_caption, table_captions, text_of
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
from diffbir_jax.data.sources.paired import PairedSource
from diffbir_jax.data.sources.shared import digest
from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.imaging.listing import SUFFIXES, find_images

LOG = logging.getLogger(__name__)


class FileSource:
    """Image files. About 0.1 KB of memory per file and the captions of a table, in every process."""

    def __init__(
        self,
        root: str,
        names: Sequence[str],
        texts: Container[str] = (),
        captions: Mapping[str, Mapping[str, str]] | None = None,
    ):
        """Take the files.

        Args:
            root: path or URL of the folder of `names`.
            names: paths below it; absolute paths and URLs are allowed.
            texts: text files that exist below it; one beside an image (`text_of`) is its short caption.
            captions: captions by name and kind; a text file comes before its short one.
        """
        self._root, self._names, self._captions = root, names, captions or {}
        # A byte per image takes less memory than a set of names.
        self._described = bytes(text_of(name) in texts for name in names)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def names(self) -> Sequence[str]:
        """Paths of the files, as given."""
        return self._names

    def __getitem__(self, index: int) -> Example:
        """Read file `index` and its caption; BrokenExampleError if the image cannot be read."""
        name = self._names[index]
        captions = dict(self._captions.get(name, {}))
        url = join(self._root, name)
        text, fault = read_caption(join(self._root, text_of(name))) if self._described[index] else ("", "")
        if text:
            captions["short"] = text
        return Example(url, read(url), captions, fault=fault)

    @property
    def fingerprint(self) -> str:
        """Digest of the names and of a table's captions, without the root: data may move."""
        texts = [text_of(name) for name, flag in zip(self._names, self._described) if flag]
        table = [part for name in sorted(self._captions) for part in (name, *self._captions[name].items())]
        return digest([*self._names, *texts, *table])


def folder(path: str) -> FileSource:
    """Make a source of the images in a folder and all folders below it, by name.

    Files are chosen by suffix (`imaging.listing.SUFFIXES`), in upper or lower case; hidden files are left out. A `.txt`
    of an image's name is its short caption; so are rows of a table in the folder (`beside.TABLES`).

    Args:
        path: the folder, or a URL of one.

    Raises:
        DataError: it is missing, holds no image, or cannot be listed.
    """
    names, others = _local(path) if is_local(path) else _remote(path)
    texts = {name for name in others if name.endswith(".txt")}
    table = next((name for name in TABLES if name in others), None)
    return FileSource(path, names, texts, table_captions(path, table, names) if table else None)


def _local(path: str) -> tuple[list[str], set[str]]:
    """Return the images of a folder, and the texts and tables that may describe them."""
    root = Path(locate(path)[1])
    try:
        # Paths relative to the folder take less memory; there may be millions.
        cut = len(str(root).rstrip("/")) + 1
        names = [str(image)[cut:] for image in find_images(root)]
    except ImageFileError as error:
        raise DataError(str(error)) from None
    given = [*TABLES, *dict.fromkeys(map(text_of, names))]
    found = {name for name in given if (root / name).is_file()}
    # Reading a pipe would wait for its writer, and a device may have no end.
    odd = [name for name in given if name not in found and os.path.lexists(root / name)]
    if odd:
        text = "%s: %d names of captions are no regular files and are left out, such as %s"
        LOG.warning(text, root, len(odd), odd[0])
    return names, found


def _remote(path: str) -> tuple[list[str], set[str]]:
    with whole(path):
        system, root = locate(path)
        found = system.find(root)
    names = [name[len(root) :].lstrip("/") for name in found]
    # Sorted by parts, the order of a local folder: "a/b" before "a.b".
    parts = sorted(name.split("/") for name in names if name.lower().endswith(SUFFIXES))
    images = ["/".join(each) for each in parts if not any(part.startswith(".") for part in each)]
    if not images:
        raise DataError(
            f"{path}: holds no image file; give a folder with files ending in {', '.join(SUFFIXES)}"
        )
    return images, {name for name in names if name.endswith(".txt") or name in TABLES}


def listed(path: str, root: str | None = None, pairs: bool = False) -> FileSource | PairedSource:
    """Make a source of the images in a text file: one path or URL per line, in this order.

    Blank lines and lines that start with # are skipped.

    Args:
        path: the text file, or its URL.
        root: folder of relative paths; by default the folder of the list.
        pairs: lines have two columns, the degraded and the clean image, with a tab between them.

    Raises:
        DataError: the list cannot be read or is empty, or the listed files are missing.
    """
    lines = (line.strip() for line in read_text(path).splitlines())
    names = [line for line in lines if line and not line.startswith("#")]
    if not names:
        raise DataError(f"{path}: lists no file; give a text file with one path per line")
    root = folder_of(path) if root is None else root
    if not pairs:
        check_some_exist(root, names, path)
        return FileSource(root, names)
    columns = [line.split("\t") for line in names]
    if wrong := next((line for line in columns if len(line) != 2), None):
        raise DataError(
            f"{path}: {wrong[0]!r} is a line of {len(wrong)} columns; give two, LQ and HQ, with a tab between them"
        )
    degraded, clean = ([line[i].strip() for line in columns] for i in (0, 1))
    for column in (degraded, clean):
        check_some_exist(root, column, path)
    return PairedSource(FileSource(root, clean), root, degraded)
