"""Captions of the inputs: words for what each photo shows, in front of the prompt."""

import csv
import os
import unicodedata
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from diffbir_jax.batch.names import some
from diffbir_jax.console.errors import UserError
from diffbir_jax.data.caption_rows import KINDS, first_text, named, once, rows
from diffbir_jax.data.captions import clean, decoded, is_caption
from diffbir_jax.files.checked import file_name, read_checked
from diffbir_jax.files.errors import ImageFileError, reason
from diffbir_jax.imaging.listing import stem_of

# Characters of a caption that are kept; the text encoders read 77 tokens.
LONGEST = 1000
TABLES = (".csv", ".jsonl")


def captions_of(place: Path | None, names: Mapping[Path, Path]) -> dict[Path, str]:
    """Return the caption of each input that has one; tells of inputs without.

    Args:
        place: a folder with a text file for each input, of the same subfolder and stem; or a table (.csv or .jsonl) of
            names and captions; None for no captions.
        names: inputs, and their names below the folder that results mirror.

    Raises:
        ImageFileError: no input has a caption, an input has several, or it cannot be told which one is meant; or a
            file cannot be read.
    """
    if place is None:
        return {}
    given = _beside(place, names) if place.is_dir() else _in_table(place, names)
    found = {path: _plain(text, path, place) for path, text in given.items() if text}
    if not found:
        what = "nothing but empty captions for these inputs" if given else "no caption for any input"
        raise ImageFileError(
            f"{place}: has {what}; give a folder with NAME.txt for each, or a .csv or .jsonl file with file_name and "
            "caption"
        )
    tell_bare(str(place), (path for path in names if path not in found))
    return found


def _plain(text: str, path: Path, place: Path) -> str:
    """A caption in one line, cut off after `LONGEST` characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ImageFileError(
            f"{place}: the caption of {path} has a half of a character (a lone surrogate); mend it"
        ) from None
    return tidy(text)


def earlier_captions(sidecars: Mapping[Path, Path]) -> dict[Path, str]:
    """Return the captions of an earlier run, from sidecars: that of the input's result, or one that lists the input.

    So both a repetition of the run and a second run over its results have its captions. Inputs without are told.

    Args:
        sidecars: inputs, and where the sidecars of their results belong; those of earlier results are beside inputs.

    Raises:
        ImageFileError: no input has a caption.
    """
    texts = {path: _earlier(path, sidecar) for path, sidecar in sidecars.items()}
    found = {path: text for path, text in texts.items() if text}
    if not found:
        raise ImageFileError(
            "--captions sidecars: no input has a sidecar of an earlier run with a caption, neither in --output nor "
            "beside the input; give the --output of that run"
        )
    tell_bare("--captions sidecars", (path for path in sidecars if path not in found))
    return found


def tidy(text: str) -> str:
    """Return a caption in one line, as long as sidecars take it."""
    return " ".join(text.split())[:LONGEST]


def tell_bare(source: str, bare: Iterable[Path]) -> None:
    """Warn of inputs without a caption."""
    if names := [str(path) for path in bare]:
        warnings.warn(
            f"{source}: no caption for {some(names)}; restored with --pos-prompt alone", stacklevel=3
        )


@dataclass(frozen=True)
class _Earlier:
    """What captions need of a sidecar."""

    format: Literal[1]
    name: str
    outputs: list[str]
    caption: Annotated[str, Field(max_length=LONGEST)] = ""


def _earlier(path: Path, sidecar: Path) -> str:
    """The caption of an input from a sidecar; "" if there is none."""
    own = _read_sidecar(sidecar)
    if own is not None and file_name(own.name) == path.name and own.caption:
        return own.caption
    # A file of another program may have such a name; it does not list the image.
    beside = map(_read_sidecar, (path.with_suffix(".json"), path.with_name(f"{path.name}.json")))
    made = (told for told in beside if told and path.name in map(file_name, told.outputs))
    return next((told.caption for told in made), "")


def _read_sidecar(path: Path) -> _Earlier | None:
    """What a file says if it is a sidecar, else None."""
    if not os.path.isfile(path):
        return None
    try:
        return read_checked(path, _Earlier, "sidecar", "leave it out")
    except UserError:
        return None


def _beside(folder: Path, names: Mapping[Path, Path]) -> dict[Path, str]:
    """The texts of files in a folder."""
    owners: dict[Path, list[Path]] = {}
    for path, name in names.items():
        owners.setdefault(folder / f"{stem_of(name)}.txt", []).append(path)
    files = {file: paths for file, paths in owners.items() if file.is_file()}
    for file, paths in files.items():
        if len(paths) > 1:
            raise ImageFileError(
                f"{file}: is the caption of several inputs, {some(paths)}; give a .csv or .jsonl file, with suffixes"
            )
    return {paths[0]: clean(_text(file)) for file, paths in files.items()}


def _in_table(table: Path, names: Mapping[Path, Path]) -> dict[Path, str]:
    """The captions of a table, by the name of an input or, if the row has no folder, by its last part."""
    if table.exists() and table.suffix.lower() not in TABLES:
        raise ImageFileError(
            f"{table}: is no table of captions; give a {' or '.join(TABLES)} file, or a folder"
        )
    text, (whole, last) = _text(table), _by_name(names)
    found: dict[Path, str] = {}
    numbers: dict[Path, int] = {}
    try:
        for number, row in enumerate(rows(text, table.name), 1):
            name, caption = _entry(row, number)
            path = whole.get(name) or _only(last.get(name, ()), name, number)
            if path is not None:
                once(path, number, numbers)
                found[path] = caption
    except (ValueError, csv.Error) as error:
        raise ImageFileError(f"{table}: cannot be read ({reason(error)}); mend it") from None
    return found


def _by_name(names: Mapping[Path, Path]) -> tuple[dict[str, Path], dict[str, list[Path]]]:
    """The inputs by their names, and by the last parts of these."""
    whole, last = {}, defaultdict(list)
    for path, name in names.items():
        whole[_normal(name.as_posix())] = path
        last[_normal(name.name)].append(path)
    return whole, last


def _normal(name: str) -> str:
    """A name with accents in one character, as other systems may not write them."""
    return unicodedata.normalize("NFC", name)


def _entry(row: Mapping[str, object], number: int) -> tuple[str, str]:
    """The image and the caption of a row; ValueError for a row without an image, or with something else than texts."""
    name = _normal(named(row, number))
    if not name:
        raise ValueError(f"row {number} names no image; give file_name")
    keys = [key for keys in KINDS.values() for key in keys]
    if odd := [key for key in keys if not is_caption(row.get(key))]:
        raise ValueError(f"{odd[0]} of row {number} is {str(row[odd[0]])[:40]}, but a caption is a text")
    return name, first_text(row, keys)


def _only(paths: Sequence[Path], name: str, number: int) -> Path | None:
    """The one input that is meant, or None; ValueError if there are several."""
    if len(paths) > 1:
        raise ValueError(f"row {number} names {name}, and inputs are {some(paths)}: give it with its folder")
    return paths[0] if paths else None


def _text(path: Path) -> str:
    """The text of a file; ImageFileError if it cannot be read."""
    try:
        return decoded(path.read_bytes())
    except ValueError as error:
        raise ImageFileError(f"{path}: {reason(error)}; save it as UTF-8") from None
    except OSError as error:
        raise ImageFileError(f"{path}: cannot be read ({reason(error)})") from None
