"""Captions of the inputs: words for what each photo shows, in front of the prompt."""

import csv
import warnings
from collections.abc import Mapping
from pathlib import Path

from diffbir_jax.batch.names import some
from diffbir_jax.data.caption_rows import KINDS, first_text, named, rows
from diffbir_jax.data.captions import clean, decoded
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
    found = _beside(place, names) if place.is_dir() else _in_table(place, names)
    found = {path: " ".join(text.split())[:LONGEST] for path, text in found.items() if text}
    if not found:
        raise ImageFileError(
            f"{place}: has no caption for any input; give a folder with NAME.txt for each, or a .csv or .jsonl file "
            "with file_name and caption"
        )
    if bare := [str(path) for path in names if path not in found]:
        warnings.warn(f"{place}: no caption for {some(bare)}; restored with --pos-prompt alone", stacklevel=2)
    return found


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
