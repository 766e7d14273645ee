"""Captions beside the images of a folder: a .txt per image, or one table of metadata in the folder."""

import csv
import io
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from diffbir_jax.data.captions import clean
from diffbir_jax.data.example import BrokenExampleError, DataError
from diffbir_jax.data.sources.files import join, read, reason

# The first of these in a folder is read; the names are those of Hugging Face's folders, and ours.
TABLES = ("metadata.jsonl", "metadata.csv", "captions.jsonl", "captions.csv")
# Columns by what they hold; the first that a row has counts.
PATHS = ("file_name", "image_path", "path", "file", "image")
KINDS = {"short": ("short", "caption", "text"), "long": ("long",)}
LOG = logging.getLogger(__name__)


def text_of(name: str) -> str:
    """Return the name of the text file beside an image."""
    stem, dot, suffix = name.rpartition(".")
    return f"{stem if dot and '/' not in suffix else name}.txt"


def read_caption(url: str, image: str) -> str:
    """Read the text file (UTF-8) with the caption of an image; BrokenExampleError if it cannot be read."""
    try:
        return clean(read(url).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BrokenExampleError(f"{url}: is no UTF-8 text ({reason(error)})", image) from None


def table_captions(root: str, table: str, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the captions that a table in a folder has for its images, by their names; says so if it has none.

    Cells that are empty, `None`, `NaN` or `null` are no captions.

    Args:
        root: the folder, or its URL.
        table: one of `TABLES`.
        names: the images, relative to the folder.

    Raises:
        DataError: the table cannot be read.
    """
    url = join(root, table)
    known, found = set(names), {}
    for row in rows_of(url):
        name = next((clean(row[key]) for key in PATHS if key in row), "").removeprefix("./")
        texts = {kind: _first(row, keys) for kind, keys in KINDS.items()}
        if name in known and any(texts.values()):
            found[name] = {kind: text for kind, text in texts.items() if text}
    if not found:
        columns = " or ".join(("caption", "text", "short", "long"))
        LOG.warning("%s: has no caption for any image here; give %s and file_name in each row", url, columns)
    return found


def rows_of(url: str) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a .jsonl or .csv file; DataError if one cannot be read."""
    try:
        text = read(url).decode("utf-8-sig")
        yield from _objects(text) if url.lower().endswith(".jsonl") else csv.DictReader(io.StringIO(text))
    except (BrokenExampleError, ValueError, csv.Error) as error:
        raise DataError(f"{url}: cannot be read ({reason(error)}); mend it, or move it elsewhere") from None


def _objects(text: str) -> Iterator[Mapping[str, Any]]:
    # Not splitlines: texts may hold other line ends, such as U+2028.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number} is no JSON: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is no object")
        yield row


def _first(row: Mapping[str, Any], keys: Iterable[str]) -> str:
    return next((text for key in keys if (text := clean(row.get(key)))), "")
