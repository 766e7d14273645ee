"""Paths of this machine, and URLs of buckets and other file systems, on the command line."""

import argparse
import re
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

# What pathlib makes of a URL: it joins the two slashes. One letter would be a drive of Windows.
_COLLAPSED = re.compile(r"[A-Za-z][\w+.:-]+:/")


class Url(str):
    """An address such as gs://bucket/photos; a `Path` would lose one of its slashes."""


def given_path(text: str) -> Path:
    """Return a path of the command line; the shell leaves ~/ as it is behind an equals sign, as in -o=~/restored."""
    return Path(text).expanduser() if text == "~" or text.startswith("~/") else Path(text)


def json_path(text: str) -> Path:
    """Read the name of a report to write. Other suffixes are refused: a slip of the hand must not replace a photo."""
    path = given_path(text)
    if path.suffix.lower() != ".json" or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} given, allowed are names of files that end in .json")
    return path


def path_or_url(text: str) -> Path | Url:
    """Return a path, or a URL as it is; file:// is a path of this machine."""
    if "://" not in text:
        return given_path(text)
    return Path(url2pathname(urlsplit(text).path)) if text.startswith("file://") else Url(text)


def was_url(path: Path) -> bool:
    """Whether a path was meant as a URL: it looks like one, and there is no such file."""
    return _COLLAPSED.match(str(path)) is not None and not path.exists()
