"""Captions beside the images of a folder: a .txt per image, or one table of metadata in the folder."""

import contextlib
import csv
import io
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence

from diffbir_jax.data.captions import clean, decoded, is_caption
from diffbir_jax.data.example import BrokenExampleError, DataError
from diffbir_jax.data.sources.files import join, read
from diffbir_jax.files.errors import reason

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


def read_caption(url: str) -> tuple[str, str]:
    """Read the text file with the caption of an image; return the caption, and what is wrong if it cannot be read."""
    try:
        return clean(decoded(read(url))), ""
    except BrokenExampleError as error:
        return "", str(error)
    except ValueError as error:
        return "", f"{url}: {reason(error)}"


def say_odd(url: str, odd: Sequence[str]) -> None:
    """Warn about cells of a table that hold no caption, nor what stands for none."""
    if odd:
        text = "%s: %d captions are neither a text nor a list of texts and are left out, the first is %s"
        LOG.warning(text, url, len(odd), odd[0])


def path_of(row: Mapping[str, object], key: str, number: int) -> str:
    """Return the path in a row of a table; ValueError if the cell holds something else."""
    value = row.get(key)
    if value is None or isinstance(value, str) or value != value:  # NaN stands for none
        return clean(value)
    raise ValueError(f"{key} of row {number} is {str(value)[:40]}, but a path is a text")


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
    odd: list[str] = []
    for number, row in enumerate(rows_of(url), 1):
        with _readable(url):
            name = next((path_of(row, key, number) for key in PATHS if key in row), "").removeprefix("./")
        keys = [key for keys in KINDS.values() for key in keys]
        odd += [f"{key} of row {number}" for key in keys if not is_caption(row.get(key))]
        texts = {kind: _first(row, keys) for kind, keys in KINDS.items()}
        if name in known and any(texts.values()):
            found[name] = {kind: text for kind, text in texts.items() if text}
    say_odd(url, odd)
    if not found:
        columns = " or ".join(("caption", "text", "short", "long"))
        LOG.warning("%s: has no caption for any image here; give %s and file_name in each row", url, columns)
    return found


def rows_of(url: str) -> Iterator[Mapping[str, object]]:
    """Yield the rows of a .jsonl or .csv file; DataError if one cannot be read."""
    with _readable(url):
        text = decoded(read(url))
        yield from _objects(text) if url.lower().endswith(".jsonl") else csv.DictReader(io.StringIO(text))


@contextlib.contextmanager
def _readable(url: str) -> Iterator[None]:
    """Turn what is wrong with a table into a DataError."""
    try:
        yield
    except (BrokenExampleError, ValueError, csv.Error) as error:
        raise DataError(f"{url}: cannot be read ({reason(error)}); mend it, or move it elsewhere") from None


def _objects(text: str) -> Iterator[Mapping[str, object]]:
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


def _first(row: Mapping[str, object], keys: Iterable[str]) -> str:
    return next((text for key in keys if (text := clean(row.get(key)))), "")
