"""Captions beside the images of a folder: a .txt per image, or one table of metadata in the folder."""

import contextlib
import csv
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence

from diffbir_jax.data.caption_rows import KINDS, first_text, named, once, rows
from diffbir_jax.data.captions import clean, decoded, is_caption
from diffbir_jax.data.example import BrokenExampleError, DataError
from diffbir_jax.data.sources.files import join, read
from diffbir_jax.files.errors import reason

# The first of these in a folder is read; the names are those of Hugging Face's folders, and ours.
TABLES = ("metadata.jsonl", "metadata.csv", "captions.jsonl", "captions.csv")
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


def table_captions(root: str, table: str, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the captions that a table in a folder has for its images, by their names; says so if it has none.

    Cells that are empty, `None`, `NaN` or `null` are no captions.

    Args:
        root: the folder, or its URL.
        table: one of `TABLES`.
        names: the images, relative to the folder.

    Raises:
        DataError: the table cannot be read, or two rows are for the same image.
    """
    url = join(root, table)
    known, found = set(names), {}
    odd: list[str] = []
    numbers: dict[str, int] = {}
    for number, row in enumerate(rows_of(url), 1):
        with _readable(url):
            name = named(row, number)
            if name in known:
                once(name, number, numbers)
        keys = [key for keys in KINDS.values() for key in keys]
        odd += [f"{key} of row {number}" for key in keys if not is_caption(row.get(key))]
        texts = {kind: first_text(row, keys) for kind, keys in KINDS.items()}
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
        yield from rows(decoded(read(url)), url)


@contextlib.contextmanager
def _readable(url: str) -> Iterator[None]:
    """Turn what is wrong with a table into a DataError."""
    try:
        yield
    except (BrokenExampleError, ValueError, csv.Error) as error:
        raise DataError(f"{url}: cannot be read ({reason(error)}); mend it, or move it elsewhere") from None
