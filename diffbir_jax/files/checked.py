"""JSON files that anybody may have written: checked against a type before anything is done with them."""

import codecs
import json
import re
import stat
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from diffbir_jax.console.errors import UserError

T = TypeVar("T")
# A byte in a file's name that is no UTF-8, as Python's JSON has it. It is half of a pair, which other readers refuse.
# So a character at the end of Unicode takes its place until `file_name`.
_NO_UTF8 = re.compile(rb"(?<!\\ud[89ab][0-9a-f]{2})\\udc([89a-f][0-9a-f])")
_SHIELD = 0x10FF00
_SHIELDED = re.compile(f"[{chr(_SHIELD + 0x80)}-{chr(_SHIELD + 0xFF)}]")
# Bytes of the largest file: results of 100,000 images have fewer.
MOST = 2**28


def read_checked(path: Path, kind: type[T], what: str, instead: str) -> T:
    """Return the content of a JSON file.

    Args:
        path: the file.
        kind: a dataclass, or any type of pydantic: names, types and ranges of what the file holds.
        what: the file's sort, for messages, such as "sidecar".
        instead: what to do if it is none.

    Raises:
        UserError: it cannot be read, is too large or holds something else; the message is one line.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            # Reading a pipe would wait for its writer.
            raise UserError(f"{path}: is no {what}, and no regular file; {instead}")
        if path.stat().st_size > MOST:
            raise UserError(f"{path}: is no {what} ({path.stat().st_size} bytes); {instead}")
        # Some editors put a byte order mark in front.
        data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
        return TypeAdapter(kind).validate_json(_NO_UTF8.sub(rb"\\udbff\\udf\1", data), strict=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {instead}") from None
    except ValidationError as error:
        raise UserError(f"{path}: is no {what} ({_first(error)}); {instead}") from None


def file_name(text: str) -> str:
    """Return a name of a file that `read_checked` has read, with its bytes that are no UTF-8."""
    return _SHIELDED.sub(lambda found: chr(ord(found[0]) - _SHIELD + 0xDC00), text)


def checked(record: object, kind: type[T]) -> T:
    """Return a value of `kind` made of what JSON holds; UserError if it is none."""
    try:
        return TypeAdapter(kind).validate_json(json.dumps(record), strict=True)
    except ValidationError as error:
        raise UserError(_first(error)) from None


def _first(error: ValidationError) -> str:
    """Return the first problem in a line: where, and what is wrong."""
    found = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in found["loc"])
    told = found["msg"].removeprefix("Value error, ")
    return " ".join(f"{place}: {told}".removeprefix(": ").split())[:200]
