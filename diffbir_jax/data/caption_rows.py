"""Rows of a table of captions: a CSV or JSON Lines file, a row for each image."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import TypeVar

from diffbir_jax.data.captions import clean

Image = TypeVar("Image")
# Columns by what they hold; the first that a row has counts.
PATHS = ("file_name", "image_path", "path", "file", "image")
KINDS = {"short": ("short", "caption", "text"), "long": ("long",)}


def rows(text: str, name: str) -> Iterator[Mapping[str, object]]:
    """Yield the rows of a table; its name ends with .jsonl, or it is a CSV file.

    Raises:
        ValueError, csv.Error: a row cannot be read.
    """
    yield from _objects(text) if name.lower().endswith(".jsonl") else _lines(text)


def named(row: Mapping[str, object], number: int) -> str:
    """Return the image that a row is for, or ""; ValueError if the cell holds something else than a path."""
    return next((path_of(row, key, number) for key in PATHS if key in row), "").removeprefix("./")


def path_of(row: Mapping[str, object], key: str, number: int) -> str:
    """Return the path in a cell of row `number`; ValueError if it holds something else."""
    value = row.get(key)
    if value is None or isinstance(value, str) or value != value:  # NaN stands for none
        return clean(value)
    raise ValueError(f"{key} of row {number} is {str(value)[:40]}, but a path is a text")


def once(image: Image, number: int, numbers: MutableMapping[Image, int]) -> None:
    """Note that row `number` is for an image; ValueError if `numbers` has a row for it.

    Two rows may hold two captions, and nothing says which one is right.
    """
    if image in numbers:
        raise ValueError(f"rows {numbers[image]} and {number} are both for {image}")
    numbers[image] = number


def first_text(row: Mapping[str, object], keys: Iterable[str]) -> str:
    """Return the first caption in these columns, or ""."""
    return next((text for key in keys if (text := clean(row.get(key)))), "")


def _lines(text: str) -> Iterator[Mapping[str, object]]:
    for number, row in enumerate(csv.DictReader(io.StringIO(text)), 1):
        # A comma that is not in quotes would cut the caption short.
        if any(row.get(None) or ()):  # pyright: ignore[reportArgumentType, reportCallIssue]
            raise ValueError(
                f"row {number} has more cells than the first line; put texts with commas in quotes"
            )
        yield row


def _objects(text: str) -> Iterator[Mapping[str, object]]:
    # Not splitlines: texts may hold other line ends, such as U+2028.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number} is no JSON: {error}") from None
        except RecursionError:
            raise ValueError(f"line {number} is nested too deeply") from None
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is no object")
        yield row
