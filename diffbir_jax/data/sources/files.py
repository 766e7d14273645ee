"""Local and remote files: paths, and URLs of all file systems that fsspec supports.

No file stays open, and fsspec keeps one connection per process and thread. So forks, pickles and threads are safe.
Credentials and other settings come from fsspec's configuration files and `FSSPEC_...` variables.
"""

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from diffbir_jax.data.example import BrokenExampleError, DataError
from diffbir_jax.files.errors import reason

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MAGIC = re.compile(r"[*?[]")
# Number of listed files whose existence is checked.
_PROBED = 16


@contextlib.contextmanager
def whole(url: str) -> Iterator[None]:
    """Turn any error into a DataError that names `url`; for files on which a whole source depends."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    # Each file system and each format has its own types of errors.
    except Exception as error:
        raise DataError(
            f"{url}: cannot be read ({reason(error)}); check the path and the access to it"
        ) from None


def locate(url: str) -> tuple[Any, str]:
    """Return the file system (`fsspec.AbstractFileSystem`, weakly typed) of a path or URL, and the path within it.

    Raises:
        DataError: the protocol is unknown, or a package for it is missing.
    """
    with whole(url):
        return url_to_fs(os.fspath(url))


def is_local(url: str) -> bool:
    """Whether a path or URL names a file of this machine."""
    return isinstance(locate(url)[0], LocalFileSystem)


def join(root: str, name: str) -> str:
    """Return `name` below `root`; absolute paths and URLs stay unchanged, and an empty `root` is the working folder."""
    if not root or "://" in name or os.path.isabs(name):
        return name
    return f"{root.rstrip('/')}/{name}"


def folder_of(url: str) -> str:
    """Return the folder of a path or URL; "" for the working folder."""
    return url.rpartition("/")[0]


def read(url: str, start: int = 0, size: int | None = None) -> bytes:
    """Read a file from byte `start`, to its end or `size` bytes.

    Raises:
        BrokenExampleError: it cannot be read, or is shorter.
    """
    try:
        system, path = locate(url)
        # One request reads exactly these bytes, also from remote shards.
        data = system.cat_file(path, start, None if size is None else start + size)
    except MemoryError:
        raise
    except Exception as error:
        raise BrokenExampleError(f"{url}: cannot be read ({reason(error)})") from None
    if size is not None and len(data) != size:
        raise BrokenExampleError(f"{url}: ends before byte {start + size}; has it changed?")
    return data


def read_text(url: str) -> str:
    """Read a file of UTF-8 text, with or without a byte order mark.

    Raises:
        DataError: it cannot be read, or is no UTF-8 text.
    """
    with whole(url):
        system, path = locate(url)
        return system.cat_file(path).decode("utf-8-sig")


def find_shards(patterns: str | Sequence[str], suffixes: Sequence[str]) -> list[str]:
    """Find the files of a data set.

    Args:
        patterns: paths or URLs: files, globs, folders, and any of them with ranges such as `{000..012}`.
        suffixes: suffixes of the files to find in a folder (not in its subfolders), such as `.tar`; may end in a glob.

    Returns:
        Paths and URLs, in the order of `patterns` and by name within each.

    Raises:
        DataError: no pattern was given, or a pattern matches no file.
    """
    given = [patterns] if isinstance(patterns, str) else list(patterns)
    if not given:
        raise DataError("no paths given; name files, globs or folders")
    return [url for each in given for pattern in expand_ranges(each) for url in _matching(pattern, suffixes)]


def expand_ranges(pattern: str) -> list[str]:
    """Expand ranges: `a{08..10}` is a08, a09, a10. The first number sets the number of digits.

    Raises:
        DataError: the first number of a range is above the last.
    """
    found = _RANGE.search(pattern)
    if not found:
        return [pattern]
    first, last = found.groups()
    if int(first) > int(last):
        raise DataError(f"{pattern}: the range {found[0]} is empty; give the lower number first")
    numbers = (f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1))
    head, tail = pattern[: found.start()], pattern[found.end() :]
    return [url for number in numbers for url in expand_ranges(head + number + tail)]


def _matching(pattern: str, suffixes: Sequence[str]) -> list[str]:
    with whole(pattern):
        system, path = locate(pattern)
        if system.isfile(path):
            return [pattern]
        if system.isdir(path):
            globs = [f"{path.rstrip('/')}/*{suffix}" for suffix in suffixes]
        elif _MAGIC.search(path):
            globs = [path]
        else:
            raise DataError(f"{pattern}: no such file or folder; check the path")
        found = sorted({name for each in globs for name in system.glob(each)})
    if not found:
        raise DataError(
            f"{pattern}: no file matches; give files, globs or folders of *{', *'.join(suffixes)}"
        )
    # fsspec returns remote names without their protocol, but later reads need it.
    return found if isinstance(system, LocalFileSystem) else [system.unstrip_protocol(name) for name in found]


def check_some_exist(root: str, names: Sequence[str], origin: str) -> None:
    """Check that some files of a list exist; a wrong root makes all of them missing.

    Args:
        root: the folder of `names`.
        names: the listed files, at least one.
        origin: the list, for the message.

    Raises:
        DataError: none of the checked files exists.
    """
    probed = [join(root, name) for name in names[:: -(-len(names) // _PROBED)]]
    if not any(_exists(url) for url in probed):
        raise DataError(
            f"{origin}: of {len(names)} files listed none of {len(probed)} looked for is there, such as {probed[0]}; "
            "check the paths, or give the folder that they start from as root"
        )


def _exists(url: str) -> bool:
    try:
        system, path = locate(url)
    except DataError:
        return False
    return system.exists(path)
