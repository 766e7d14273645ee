"""Numbers on the command line: their ranges, and what to type instead of a number with a unit."""

import argparse
import re

# A number that is followed by a unit, such as 4x, 8GB or 50%.
WITH_UNIT = re.compile(r"([+-]?\d*\.?\d+)\s*([A-Za-z%]+)")


def whole(text: str) -> int:
    """Read a whole number of at least 0."""
    if not text.isdecimal():
        raise refused(text, "whole numbers from 0")
    return int(text)


def count(text: str) -> int:
    """Read a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise refused(text, "whole numbers above 0")
    return int(text)


def quality(text: str) -> int:
    """Read a quality of JPEG and WebP."""
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise refused(text, "whole numbers from 1 to 100")
    return int(text)


def integer(text: str) -> int:
    """Read a whole number, which may be negative."""
    if not re.fullmatch(r"[+-]?\d+", text):
        raise refused(text, "whole numbers")
    return int(text)


def real(text: str) -> float:
    """Read a number."""
    try:
        return float(text)
    except ValueError:
        raise refused(text, "numbers") from None


def positive(text: str) -> float:
    """Read a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise refused(text, "finite numbers above 0")
    return value


def refused(text: str, allowed: str) -> argparse.ArgumentTypeError:
    """Return the error for a text that is no such number."""
    return argparse.ArgumentTypeError(f"{text!r} given, allowed are {allowed}{without_unit(text)}")


def without_unit(text: str) -> str:
    """Return advice for a number with a unit: the number alone, or the share that a percentage is."""
    found = WITH_UNIT.fullmatch(text.strip())
    if found is None:
        return ""
    share = f"{float(found[1]) / 100:g}" if found[2] == "%" else found[1]
    return f"; give {share}, without a unit"
