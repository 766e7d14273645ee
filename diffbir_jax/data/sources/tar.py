"""Tar shards in the layout of WebDataset, with random access and without unpacking."""

import json
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from diffbir_jax.data.captions import clean, decoded, is_caption
from diffbir_jax.data.example import DataError, Example
from diffbir_jax.data.sources.files import find_shards, locate, read, whole
from diffbir_jax.data.sources.shared import digest
from diffbir_jax.files.errors import reason

SUFFIXES = (".tar",)
IMAGES = (".jpg", ".jpeg", ".png", ".webp")
# The parts of an example. The index keeps offset and size of each, 0 if there is none.
_PARTS = ("image", ".txt", ".json")


class TarSource:
    """Images in tar files; members with the same stem form an example. Memory per process: 0.15 KB per example."""

    def __init__(self, path: str | Sequence[str]):
        """Read the headers of all members. This reads each shard once; a remote shard is downloaded for it.

        A stem ends at the first dot of a file's name: `a/1.jpg`, `a/1.txt` and `a/1.json` are one example. `.txt` holds
        its short caption. `.json` holds a map with its captions as `short` (or `caption`) and `long`.

        Args:
            path: uncompressed `.tar` files: paths, URLs, globs, folders, ranges such as `{000..012}`.

        Raises:
            DataError: there is no shard, one is cut off or no tar file, or none holds an image.
        """
        self._shards = find_shards(path, SUFFIXES)
        self._names: list[str] = []
        rows = [self._index(number, shard) for number, shard in enumerate(self._shards)]
        if not self._names:
            raise DataError(
                f"{self._shards[0]}: no image ({', '.join(IMAGES)}) in {len(self._shards)} shard(s)"
            )
        self._rows = np.concatenate(rows)

    def _index(self, number: int, shard: str) -> np.ndarray:
        """Return (N, 7) int64 for the images of a shard: its number, then offset and size of each part."""
        examples: dict[str, dict[str, tuple[int, int]]] = {}
        with whole(shard):
            for name, *place in _members(shard):
                stem, part = _split(name)
                if part in _PARTS:
                    examples.setdefault(stem, {}).setdefault(part, (place[0], place[1]))
        examples = {stem: parts for stem, parts in examples.items() if "image" in parts}
        self._names += examples
        rows = [
            [number, *(n for part in _PARTS for n in parts.get(part, (0, 0)))] for parts in examples.values()
        ]
        return np.array(rows, np.int64).reshape(len(rows), 1 + 2 * len(_PARTS))

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Example:
        """Read example `index`; BrokenExampleError if its parts cannot be read."""
        number, *places = self._rows[index].tolist()
        name = f"{self._shards[number]}: {self._names[index]}"
        image, text, record = (
            read(self._shards[number], start, size) if start else b""
            for start, size in zip(places[::2], places[1::2])
        )
        try:
            return Example(name, image, _captions(text, record))
        except ValueError as error:
            return Example(name, image, fault=f"{name}: its captions cannot be read ({reason(error)})")

    @property
    def fingerprint(self) -> str:
        """Digest of the shards' names, the stems, and the offsets and sizes of their parts."""
        names = (os.path.basename(shard) for shard in self._shards)
        places = digest([self._rows.tobytes().hex()])
        return digest([*names, *self._names, places])


def _members(shard: str) -> Iterator[tuple[str, int, int]]:
    """Yield name, offset and size of each file in a tar file."""
    system, path = locate(shard)
    with system.open(path, "rb") as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                while member := tar.next():
                    if member.isreg():
                        yield member.name, member.offset_data, member.size
                    # tarfile keeps every member in this list, which would grow with the shard.
                    tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
                end = tar.offset
        except tarfile.TarError as error:
            raise DataError(
                f"{shard}: is cut off, or no uncompressed tar file ({error}); copy it again"
            ) from None
        # A complete archive ends with an empty block. tarfile also accepts a file that is cut off between two members.
        stream.seek(end)
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise DataError(f"{shard}: is cut off: its end mark is missing; copy or write it again")


def _split(name: str) -> tuple[str, str]:
    """Return stem and part of a member; the part is `image` for all image formats."""
    folder, slash, base = name.rpartition("/")
    stem, dot, rest = base.partition(".")
    suffix = dot + rest.lower()
    return folder + slash + stem, "image" if suffix in IMAGES else suffix


def _captions(text: bytes, record: bytes) -> dict[str, str]:
    """Return the captions by kind; ValueError if one cannot be read."""
    fields = json.loads(decoded(record) or "{}")
    if not isinstance(fields, Mapping):
        raise ValueError("the .json is no map")
    if odd := [key for key in ("short", "caption", "long") if not is_caption(fields.get(key))]:
        raise ValueError(f"{odd[0]} is neither a text nor a list of texts")
    texts = (fields.get("short"), fields.get("caption"), decoded(text))
    found = {"short": next(filter(None, map(clean, texts)), ""), "long": clean(fields.get("long"))}
    return {kind: caption for kind, caption in found.items() if caption}
