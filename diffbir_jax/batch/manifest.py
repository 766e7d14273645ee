"""The manifest of results in a bucket: which images are done, and which files with how many bytes belong to each.

Object stores cannot append. So each process writes parts of at most `LINES` lines under names of its own: after each
image the part is written anew under its next name, then the one before is removed. A kill loses no line.
"""

import contextlib
import json
import os
import threading
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.files.remote import Remote

# Hidden, as in folders: it is no input of a later run.
FOLDER = ".diffbir"
LINES = 200


@dataclass(frozen=True)
class Entry:
    """An image that is done.

    Attributes:
        name: path below the folder of inputs.
        files: bytes of what was written for it, by path below the folder of results.
        crops: whether crops of its faces were wanted.
    """

    name: str
    files: dict[str, int]
    crops: bool = False


class Manifest:
    """The manifest in a folder of results. Threads may share it; other processes write other parts."""

    def __init__(self, folder: Remote):
        """Read it; ImageFileError if it or the folder's list cannot be read."""
        self._folder, self._lock = folder, threading.Lock()
        self._there = folder.sizes()
        self._done: dict[str, list[Entry]] = {}
        for part in [
            name for name in self._there if name.startswith(f"{FOLDER}/") and name.endswith(".jsonl")
        ]:
            for entry in _entries(folder, part):
                self._done.setdefault(entry.name, []).append(entry)
        self._part, self._lines, self._written = uuid.uuid4().hex, list[bytes](), ""

    def has(self, name: str, files: Iterable[str], crops: bool) -> bool:
        """Whether an image is done, with all of these files, and whole: its files have the bytes that they should."""
        wanted = {*files}
        return any(
            entry.files.keys() >= wanted
            and entry.crops >= crops
            and all(self._there.get(file) == size for file, size in entry.files.items())
            for entry in self._done.get(name, ())
        )

    def begin(self) -> None:
        """Begin a part, which shows whether the folder can be written; ImageFileError if not."""
        with self._lock:
            self._write()

    def add(self, name: str, files: Mapping[str, int], crops: bool) -> None:
        """Note that an image is done; ImageFileError if that cannot be written."""
        line = json.dumps({"name": name, "files": files, "crops": crops}).encode() + b"\n"
        with self._lock:
            self._lines.append(line)
            try:
                self._write()
            except ImageFileError:
                self._lines.pop()
                raise
            self._there.update(files)
            self._done.setdefault(name, []).append(Entry(name, dict(files), crops))
            if len(self._lines) == LINES:
                self._part, self._lines, self._written = uuid.uuid4().hex, [], ""

    def _write(self) -> None:
        name = f"{FOLDER}/{self._part}-{len(self._lines):03}-{os.getpid()}.jsonl"
        self._folder.write(b"".join(self._lines), name)
        before, self._written = self._written, name
        if before:
            # One that stays holds nothing that the new one lacks.
            with contextlib.suppress(ImageFileError):
                self._folder.remove(before)


def _entries(folder: Remote, part: str) -> list[Entry]:
    """The lines of a part. One that another process has replaced meanwhile tells of nothing."""
    try:
        text = folder.read(part)
    except ImageFileError:
        if part not in folder.sizes():
            return []
        raise
    try:
        return [TypeAdapter(Entry).validate_json(line) for line in text.splitlines()]
    except ValidationError:
        raise ImageFileError(f"{folder.url}/{part}: is no manifest; remove it") from None
