"""Captions of the inputs: words for what each photo shows, in front of the prompt."""

import csv
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from diffbir_jax.batch.names import some
from diffbir_jax.console.errors import UserError
from diffbir_jax.data.caption_rows import KINDS, first_text, named, rows
from diffbir_jax.data.captions import clean, decoded
from diffbir_jax.files.checked import file_name, read_checked
from diffbir_jax.files.errors import ImageFileError, reason
from diffbir_jax.imaging.listing import stem_of

# Characters of a caption that are kept; the text encoders read 77 tokens.
LONGEST = 1000


def captions_of(place: Path | None, names: Mapping[Path, Path]) -> dict[Path, str]:
    """Return the caption of each input that has one; tells of inputs without.

    Args:
        place: a folder with a text file for each input, of the same subfolder and stem; or a table (.csv or .jsonl) of
            names and captions; None for no captions.
        names: inputs, and their names below the folder that results mirror.

    Raises:
        ImageFileError: no input has a caption, or a file cannot be read.
    """
    if place is None:
        return {}
    texts = _beside(place, names) if place.is_dir() else _in_table(place, names)
    found = {path: tidy(text) for path, text in texts.items() if text}
    if not found:
        raise ImageFileError(
            f"{place}: has no caption for any input; give a folder with NAME.txt for each, or a .csv or .jsonl file "
            "with file_name and caption"
        )
    tell_bare(str(place), (path for path in names if path not in found))
    return found


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
    files = {path: folder / f"{stem_of(name)}.txt" for path, name in names.items()}
    return {path: clean(_text(file)) for path, file in files.items() if file.is_file()}


def _in_table(table: Path, names: Mapping[Path, Path]) -> dict[Path, str]:
    """The captions of a table, by the name of an input or, if it has no folder, by its last part."""
    known: dict[str, str] = {}
    try:
        for number, row in enumerate(rows(_text(table), table.name), 1):
            texts = [first_text(row, keys) for keys in KINDS.values()]
            known[named(row, number)] = next(filter(None, texts), "")
    except (ValueError, csv.Error) as error:
        raise ImageFileError(f"{table}: cannot be read ({reason(error)}); mend it") from None
    return {path: known.get(name.as_posix()) or known.get(name.name, "") for path, name in names.items()}


def _text(path: Path) -> str:
    """The text of a file; ImageFileError if it cannot be read."""
    try:
        return decoded(path.read_bytes())
    except ValueError as error:
        raise ImageFileError(f"{path}: {reason(error)}; save it as UTF-8") from None
    except OSError as error:
        raise ImageFileError(f"{path}: cannot be read ({reason(error)})") from None
