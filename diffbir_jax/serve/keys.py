"""API keys: a file with one per line."""

import hmac
from collections.abc import Mapping
from pathlib import Path

from diffbir_jax.console.errors import UserError

# Characters of the shortest key: 16 of them are beyond guessing.
LEAST = 16


def read_keys(path: Path) -> dict[str, str]:
    """Return the keys of a file with the name of each: lines `name key` or `key`; # begins a comment.

    Raises:
        UserError: there is none, one is too short, or the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give a text file with one key per line") from None
    keys: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) > 2 or len(words[-1]) < LEAST or not words[-1].isascii():
            raise UserError(
                f"{path}, line {number}: give a name and a key of at least {LEAST} ASCII characters"
            )
        keys[words[-1]] = words[0] if len(words) == 2 else f"line {number}"
    if not keys:
        raise UserError(f"{path}: holds no key; give one per line")
    return keys


def owner_of(headers: Mapping[str, str], keys: Mapping[str, str]) -> str | None:
    """Return the name of the key in a request's headers, or None. The time does not depend on how much is right."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    given = given if scheme.lower() == "bearer" else headers.get("x-api-key", "")
    found = None
    for key, name in keys.items():
        if hmac.compare_digest(key.encode(), given.strip().encode()):
            found = name
    return found
